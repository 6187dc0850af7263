"""Converts a GGUF file to a model folder: `python -m cluster.policy.models.convert_gguf FILE DIR`.

A program of its own, so that a driver that prepares a model never imports torch.
"""

import sys
from pathlib import Path
from typing import Any


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model's weights in bfloat16, and its tokenizer, to `folder`.

    Args:
        gguf: The GGUF file; its quantized tensors are dequantized.
        folder: Where to write; it must exist.
    """
    import torch
    import transformers

    library: Any = transformers
    model = library.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=library.GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    library.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
