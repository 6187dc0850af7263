"""Models, checkpoints and LoRA adapters as files: shapes that fit, and ones that do not."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cluster.policy.vllm.cpu_precision import cpu_precision

MODULE = "model.layers.0.self_attn.q_proj"


def write_model(
    folder: Path,
    shape: tuple[int, int] = (6, 4),
    *,
    vocabulary: int = 9,
    module: str = MODULE,
    **config: object,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"{module}.weight": np.zeros(shape, np.float32),
        "model.embed_tokens.weight": np.zeros((vocabulary, shape[1]), np.float32),
    }
    save_file(weights, folder / "model.safetensors")
    sizes = {"architectures": ["Tiny"], "vocab_size": vocabulary, "hidden_size": shape[1]}
    (folder / "config.json").write_text(json.dumps(sizes | {"transformers_version": "1"} | config))
    return folder


def perturbed(model: Path, folder: Path, share: float = 0.05) -> Path:
    """A copy of a model of which each weight of a layer is another by about this share of it."""
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_torch
    from torch import Generator, randn

    shutil.copytree(model, folder)
    noise = Generator().manual_seed(0)
    for file in folder.glob("*.safetensors"):
        weights = {
            name: (weight * (1 + share * randn(weight.shape, generator=noise))).to(weight.dtype)
            if "proj" in name
            else weight
            for name, weight in load_file(file).items()
        }
        save_torch(weights, file, metadata={"format": "pt"})
    return folder


def score(model: Path, ids: list[int], sampled: int) -> list[float]:
    """Log-probabilities of the last so many ids, as transformers computes them."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, cpu_precision()))
    with torch.no_grad():
        logprobs = torch.log_softmax(loaded(torch.tensor([ids])).logits[0].float(), -1)
    return [float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - sampled, len(ids))]


def write_adapter(
    folder: Path, *, rank: int = 2, outputs: int = 6, inputs: int = 4, module: str = MODULE
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"base_model.model.{module}"
    weights = {
        f"{name}.lora_A.weight": np.zeros((rank, inputs), np.float32),
        f"{name}.lora_B.weight": np.zeros((outputs, rank), np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    return folder
