"""A tokenizer of 258 tokens with the packaged model's chat template: a token per byte, and two marks."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster.policy.models import packaged_model

START, END = "<|im_start|>", "<|im_end|>"


def make_tokenizer(folder: Path, template: str | None = None) -> Path:
    """Writes one; `template` in place of the packaged model's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=START)
    fast.chat_template = packaged_model.TEMPLATE.read_text() if template is None else template
    fast.save_pretrained(folder)
    return folder
