"""Tokenizers of a token per byte, with the special tokens that a chat template speaks of."""

import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_SPECIAL = re.compile(r"<[|｜/]?[A-Za-z_][\w▁|｜]*[|｜]?>|<\|[^<>\s'\"]+>|\[/?[A-Z_]{3,}\]")
_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
    "<|end|>",
    "<|eot|>",
    "</s>",
)
_IN_TEXT = re.compile(
    r"</?(tool|tools|think|function|parameter|name|description|type|properties|required|IMP)"
)
"""Marks that families have as plain text, or as tokens that are not special."""


def make_family_tokenizer(folder: Path, template: str) -> Path:
    """Writes one for a template."""
    found = dict.fromkeys(_SPECIAL.findall(template))
    special = [token for token in found if not _IN_TEXT.match(token)]
    end = next((token for token in _ENDS if token in template), "</s>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        bos_token="<s>",
        additional_special_tokens=[token for token in special if token != end],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder
