"""A small Llama with the packaged model's tokenizer, which writes words, ends, and calls the tool `look`.

What it says means nothing, and a CPU computes it in a fiftieth of the packaged model's time. Its numbers are
random but for what makes it useful here: outside a tool call, letters alone are likely, so that an answer is
plain text; an answer ends after a dozen words or two; and at the beginning of an answer, about every other
time, a whole tool call follows. Attention and layers change every probability, so that weights, adapters and
caches can be told apart.
"""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cluster.policy.models import packaged_model

Weights: TypeAlias = dict[str, NDArray[np.float32]]
HIDDEN, HALF, LAYERS, NEURONS = 128, 64, 3, 256
"""The first half of a hidden state is the token that was read, which no layer writes to; the second half is
what the next token is chosen by."""
_CALL_TEXT = '< tool _ call > {" name ":" look "," arguments ": { Ġ" thing " : "" }} <|im_end|>'
CALL = _CALL_TEXT.split()
"""A tool call in tokens of which none comes twice: each is all that the next one depends on."""
_START, _END, _QUOTE = "Ċ", "<|im_end|>", '"'
_JSON = re.compile(r'[{}\[\]",:]+')
_CALLING = 6.0
"""How strongly a token of the call is followed by the next."""
_CONSTANT = 20.0
"""What the layers write into the place by which tokens are likely or not whatever was read."""
_OFFSETS = {"word": 0.0, "end": 0.62, "quote": 0.5, "json": -0.9, "digit": -1.1, "other": -1.5}


def write_small_model(folder: Path) -> Path:
    """Writes the model's folder, with the packaged model's tokenizer and chat template.

    Args:
        folder: Where; its name is what the model is called.

    Returns:
        The folder.
    """
    packaged = packaged_model.prepare(lambda _: None)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copyfile(packaged / name, folder / name)
    config: dict[str, Any] = json.loads((packaged / "config.json").read_text())
    sizes = {"hidden_size": HIDDEN, "intermediate_size": NEURONS, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HIDDEN // 2}
    config |= {**sizes, **heads, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    known: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    ids: dict[str, int] = known["model"]["vocab"] | {
        added["content"]: added["id"] for added in known["added_tokens"]
    }
    save_file(make_weights(ids), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_weights(ids: dict[str, int]) -> Weights:
    """The model's weights, by the names that transformers gives them.

    Args:
        ids: The id of each token.
    """
    chance = np.random.default_rng(0)

    def random(outputs: int, inputs: int, deviation: float) -> NDArray[np.float32]:
        return (deviation * chance.standard_normal((outputs, inputs))).astype(np.float32)

    embeddings = random(len(ids), HIDDEN, 1.0)
    embeddings[:, 0] = 2.0
    embeddings[:, HALF:] *= 0.3
    for token, number in ids.items():
        embeddings[number, HALF] = _OFFSETS[_kind_of(token)]
    call = [ids[token] for token in (_START, *CALL)]
    embeddings[call[1:-1], HALF] = np.maximum(embeddings[call[1:-1], HALF], -0.3)
    embeddings[call[1], HALF] = -1.5  # every other line's end is followed by a call
    weights = {"model.embed_tokens.weight": embeddings}
    for number in range(LAYERS):
        name = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
        for part, outputs in (("q", HIDDEN), ("k", HALF), ("v", HALF)):
            weights[f"{name}.self_attn.{part}_proj.weight"] = random(outputs, HIDDEN, 0.15)
        for part in ("gate", "up"):
            weights[f"{name}.mlp.{part}_proj.weight"] = random(NEURONS, HIDDEN, 0.1)
        for part, inputs in (("self_attn.o", HIDDEN), ("mlp.down", NEURONS)):
            out = random(HIDDEN, inputs, 0.04)
            out[: HALF + 1] = 0.0
            weights[f"{name}.{part}_proj.weight"] = out
    _plant_call(weights, f"model.layers.{LAYERS - 1}.mlp", call)
    final = np.full(HIDDEN, 1.75, np.float32)
    final[:HALF] = 0.0
    return {**weights, "model.norm.weight": final}


def _plant_call(weights: Weights, mlp: str, call: list[int]) -> None:
    """Makes neurons of which each sees one token of the call and writes the next; one more writes always."""
    embeddings = weights["model.embed_tokens.weight"]
    gate, up, down = (weights[f"{mlp}.{part}_proj.weight"] for part in ("gate", "up", "down"))
    always = len(call) - 1
    for neurons in (gate[: always + 1], up[: always + 1], down[:, : always + 1]):
        neurons[:] = 0.0
    up[: always + 1, 0] = 1.0
    gate[always, 0] = 1.0
    down[HALF, always] = _CONSTANT
    for neuron, (token, after) in enumerate(itertools.pairwise(call)):
        gate[neuron, 1:HALF] = embeddings[token, 1:HALF] / 3.0
        gate[neuron, 0] = -6.0
        direction = embeddings[after, HALF + 1 :]
        down[HALF + 1 :, neuron] = _CALLING * direction / np.linalg.norm(direction)


def _kind_of(token: str) -> str:
    if token == _END:
        return "end"
    if token == _QUOTE:
        return "quote"
    plain = token.removeprefix("Ġ")
    if plain.isascii() and plain.isalpha():
        return "word"
    if plain.isdigit():
        return "digit"
    return "json" if _JSON.fullmatch(plain) else "other"
