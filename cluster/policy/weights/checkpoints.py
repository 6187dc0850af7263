"""Full checkpoints as files: what makes one fit in the place of a deployment's model."""

import re
from pathlib import Path
from typing import Any

from cluster.errors import UpdateRefused
from cluster.policy.models.model_configs import config_difference, is_tied
from cluster.policy.weights.served_model import CONFIG as CONFIG
from cluster.policy.weights.served_model import ServedModel, TensorKind, read_config
from cluster.policy.weights.tensor_files import INDEX, SINGLE, Tensor, find_non_finite, folder_tensors

_HEAD, _EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"
_FLOAT_KINDS = ("F64", "F32", "F16", "BF16")
"""Kinds of numbers that vLLM turns into the one that it computes with."""
_COMPUTED_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|\.attn\.bias)$")
"""Buffers that older checkpoints hold, and that every model computes by itself."""
_LAYER_NUMBER = re.compile(
    r"^(?:model\.|language_model\.|model\.language_model\.|language_model\.model\.)?layers\.(\d+)\."
)
"""Of the language model; a vision tower counts its own."""


def check_checkpoint(checkpoint: Path, called: str, model: Path | ServedModel | None) -> None:
    """Sees that a checkpoint is whole, of finite numbers, and of the served model's architecture.

    Args:
        checkpoint: A folder as transformers' `save_pretrained` writes it, with a `config.json`.
        called: What the user calls that.
        model: The served model, or its folder. What is not known of it is not compared with.

    Raises:
        UpdateRefused: It does not fit.
    """
    given = f"the checkpoint {called}"
    served = model if isinstance(model, ServedModel) else ServedModel.of_folder(model)
    try:
        config = read_config(checkpoint)
        tensors = folder_tensors(checkpoint)
    except (ValueError, TypeError, OSError) as error:
        raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
    if not tensors:
        pickled = [*checkpoint.glob("*.bin"), *checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]
        hint = (
            f" ({pickled[0].name} is a pickle, which is not read: save with safetensors)" if pickled else ""
        )
        raise UpdateRefused(f"{given} is malformed: there are no weights in it, *.safetensors{hint}")
    if (checkpoint / SINGLE).is_file() and SINGLE not in {tensor.file.name for tensor in tensors.values()}:
        raise UpdateRefused(
            f"{given} holds two sets of weights: transformers loads {SINGLE}, and vLLM the files that "
            f"{INDEX} names; remove the one that is left from an earlier save"
        )
    if served.config is not None:
        _check_config(given, config, served.config)
    if served.tensors is not None:
        _check_tensors(given, tensors, served.tensors, served.config or config)
    elif not any(map(_is_head, tensors)) and _needs_head(tensors, served.config or config):
        raise UpdateRefused(f"{given} is not whole: it has no {_HEAD!r}, and tie_word_embeddings is not true")
    kinds = served.tensors or {}
    for name, tensor in tensors.items():
        kind = kinds[name].dtype if name in kinds else None
        if (found := find_non_finite(tensor, kind)) is not None:
            raise UpdateRefused(f"{given} holds {found} in {name!r}; all its numbers must be finite")


def _check_config(given: str, config: dict[str, Any], served: dict[str, Any]) -> None:
    difference = config_difference(config, served)
    if difference is not None:
        name, value, right = difference
        raise UpdateRefused(
            f"{given} is of another architecture: its {name} is {value!r}, and the served model's is "
            f"{right!r}"
        )


def _check_tensors(
    given: str, tensors: dict[str, Tensor], served: dict[str, TensorKind], config: dict[str, Any]
) -> None:
    missing = sorted(name for name in served.keys() - tensors.keys() if not _is_unused(name, config))
    heads = [name for name in missing if _is_head(name)]
    if heads and is_tied(config):
        missing = [name for name in missing if name not in heads]
    if missing:
        more = f" ({len(missing)} of {len(served)} tensors are missing)" if len(missing) > 1 else ""
        tied = (
            "; it may be left out only where tie_word_embeddings is true, and the served model's is not"
            if missing[0] in heads
            else ""
        )
        raise UpdateRefused(
            f"{given} is not whole: it has no {missing[0]!r}, which the served model has{tied}{more}"
        )
    for name, tensor in sorted(tensors.items()):
        if name not in served:
            if not (_is_unused(name, config) or (_is_head(name) and _repeats_embeddings(name, tensors))):
                raise UpdateRefused(
                    f"{given} is of another architecture: the served model has no {name!r}"
                    + ("; its embeddings are its output weights" if _is_head(name) else "")
                )
            continue
        if tensor.shape != served[name].shape:
            raise UpdateRefused(
                f"{given} is of another architecture: {name!r} has shape {tensor.shape}, and the served "
                f"model's {served[name].shape}"
            )
        right = served[name].dtype
        if tensor.dtype != right and not (tensor.dtype in _FLOAT_KINDS and right in _FLOAT_KINDS):
            raise UpdateRefused(
                f"{given} is of another architecture: {name!r} is of {tensor.dtype}, and the served model's "
                f"of {right}; vLLM converts between {', '.join(_FLOAT_KINDS)} only"
            )
    for head in filter(_is_head, tensors):
        if is_tied(config) and not _repeats_embeddings(head, tensors):
            raise UpdateRefused(
                f"{given} was trained with output weights of its own: {head!r} is not its embeddings, which "
                "the served model uses for both (tie_word_embeddings); tie them, or serve an untied model"
            )


def _is_head(name: str) -> bool:
    return name == _HEAD or name.endswith(f".{_HEAD}")


def _needs_head(tensors: dict[str, Tensor], config: dict[str, Any]) -> bool:
    """Whether a model must have output weights, as far as its config tells."""
    architectures: Any = config.get("architectures") or [""]
    causal = str(architectures[0]).endswith("ForCausalLM")
    return causal and f"model.{_EMBEDDINGS}" in tensors and is_tied(config) is False


def _is_unused(name: str, config: dict[str, Any]) -> bool:
    """Whether vLLM's model goes without a tensor: a buffer, or a layer that predicts tokens further on."""
    if _COMPUTED_BUFFERS.search(name) or name.startswith(("mtp.", "model.mtp.")):
        return True
    text = config.get("text_config")
    layers = (text if isinstance(text, dict) else config).get("num_hidden_layers")  # pyright: ignore
    found = _LAYER_NUMBER.search(name)
    return found is not None and isinstance(layers, int) and int(found[1]) >= layers


def _repeats_embeddings(head: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a head holds the numbers of the embeddings, byte by byte; true where it has none."""
    embeddings = [tensor for name, tensor in tensors.items() if name.endswith(f".{_EMBEDDINGS}")]
    return any(_have_equal_bytes(tensors[head], tensor) for tensor in embeddings) if embeddings else True


def _have_equal_bytes(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    left = one.end - one.begin
    with one.file.open("rb") as a, other.file.open("rb") as b:
        a.seek(one.begin)
        b.seek(other.begin)
        while left > 0:
            size = min(left, 1 << 24)
            if a.read(size) != b.read(size):
                return False
            left -= size
    return True
