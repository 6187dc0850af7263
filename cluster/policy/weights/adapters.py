"""LoRA adapters as files: what makes one fit a base model, and what vLLM serves as PEFT means it."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from cluster.errors import UpdateRefused
from cluster.policy.weights.adapter_base import check_base_name
from cluster.policy.weights.adapter_config import CONFIG as CONFIG
from cluster.policy.weights.adapter_config import AdapterConfig
from cluster.policy.weights.served_model import ServedModel, TensorKind
from cluster.policy.weights.tensor_files import Tensor, file_tensors, find_non_finite

_log = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"
_KEY_PREFIX = "base_model.model."
"""PEFT's prefix of the names of the base model's modules."""
_KEY_PATTERN = re.compile(rf"{re.escape(_KEY_PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FLOAT_KINDS = ("F64", "F32", "F16", "BF16")
_WRAPPER_PREFIX = re.compile(r"^((?:language_)?model\.)+")
"""What a language model's layers are named below; transformers' versions differ in it."""
_MAPPED_WRAPPERS = ("model.language_model.", "language_model.model.")
"""Those of a model of several parts that vLLM finds the layers by, whichever of them its files have."""
_LAYER_NUMBER = re.compile(r"layers\.(\d+)\.")
_TOWER_NAMES = re.compile(
    r"(^|\.)\w*(vision|visual|audio|speech|image|video|projector|connector|merger|resampler|aligner)\w*\."
)
"""Of what turns pictures and sounds into embeddings, and of what joins these to the language model."""


def check_adapter(
    adapter: Path,
    called: str,
    base: Path | ServedModel | None,
    max_rank: int | None,
    bases: Mapping[str, Path | None] | None = None,
) -> None:
    """Sees that an adapter is whole, fits, and is of a kind that vLLM serves as PEFT means it.

    Args:
        adapter: A folder as PEFT's `save_pretrained` writes it, with an `adapter_config.json`.
        called: What the user calls that.
        base: The base model, or its folder. What is not known of it is not compared with.
        max_rank: Highest rank that the deployment takes. None: it takes no adapters.
        bases: What the base model is known as, with the folder that each name is of, where it is here. None:
            the folder's own name.

    Raises:
        UpdateRefused: It does not.
    """
    given = f"the adapter {called}"
    if max_rank is None:
        raise UpdateRefused(
            f"{given}: policy.adapters is not set for this deployment, which takes full checkpoints only"
        )
    config = AdapterConfig(adapter, given)
    tensors = _read_tensors(adapter, given)
    if config.rank > max_rank:
        raise UpdateRefused(f"{given} has rank {config.rank}, and policy.adapters.max_rank is {max_rank}")
    if isinstance(base, Path) and bases is None:
        bases = {base.name: base}
    check_base_name(given, config.base, bases or {})
    pairs = _pair_matrices(given, tensors)
    served = base if isinstance(base, ServedModel) else ServedModel.of_folder(base)
    modules = None if served.tensors is None else _linear_modules(served.tensors)
    for module, (a, b) in sorted(pairs.items()):
        if modules is not None:
            _check_module(given, module, a, b, modules)
            _check_place(given, module, served)
        _check_pair(given, module, a, b, config, max_rank)
        _check_served(given, module, served, config)
    _check_targets(given, config, pairs.keys(), modules, _count_layers(served))
    for name, tensor in tensors.items():
        if (found := find_non_finite(tensor)) is not None:
            raise UpdateRefused(f"{given} holds {found} in {name!r}; all its numbers must be finite")


def _read_tensors(adapter: Path, given: str) -> dict[str, Tensor]:
    try:
        tensors = file_tensors(adapter / WEIGHTS)
    except FileNotFoundError:
        pickled = next(
            (name for name in ("adapter_model.bin", "adapter_model.pt") if (adapter / name).exists()), ""
        )
        hint = f"; {pickled} is a pickle, which is not read: save with safe_serialization" if pickled else ""
        raise UpdateRefused(f"{given} is malformed: there is no {WEIGHTS} in it{hint}") from None
    except (ValueError, TypeError, OSError) as error:
        raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
    if not tensors:
        raise UpdateRefused(f"{given} is malformed: it has no weights")
    return tensors


def _pair_matrices(given: str, tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The two low-rank matrices of each module; every tensor is one of them."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        found = _KEY_PATTERN.fullmatch(name)
        if found is None:
            if ".lora_embedding_" in name or ".embed_tokens." in name:
                raise UpdateRefused(
                    f"{given} has {name!r}, and adapters are taken of linear modules alone: leave the "
                    "embeddings out of its target_modules, or give a full checkpoint"
                )
            if name.endswith("lm_head.base_layer.weight"):
                raise UpdateRefused(
                    f"{given} has {name!r}, the base model's own output weights, which PEFT would load and "
                    "vLLM leaves out: save it with save_pretrained(folder, save_embedding_layers=False)"
                )
            raise UpdateRefused(f"{given} is malformed: {name!r} is no LoRA weight")
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise UpdateRefused(
                f"{given} is malformed: {name!r} has shape {tensor.shape}, and should have two dimensions "
                "above 0 (weights that were saved while they were spread over several devices have not)"
            )
        if tensor.dtype not in _FLOAT_KINDS:
            raise UpdateRefused(
                f"{given} is malformed: {name!r} is of {tensor.dtype}; vLLM takes {', '.join(_FLOAT_KINDS)}"
            )
        sides.setdefault(found["module"], {})[found["side"]] = tensor
    for module, has in sides.items():
        for side in "AB":
            if side not in has:
                raise UpdateRefused(f"{given} is not whole: {module!r} has no lora_{side}")
    return {module: (has["A"], has["B"]) for module, has in sides.items()}


def _check_pair(given: str, module: str, a: Tensor, b: Tensor, config: AdapterConfig, max_rank: int) -> None:
    rank = config.rank_of(module)
    if a.shape[0] != b.shape[1]:
        raise UpdateRefused(
            f"{given} is malformed: {module!r} has a lora_A of rank {a.shape[0]} and a lora_B of rank "
            f"{b.shape[1]}"
        )
    if a.shape[0] != rank:
        raise UpdateRefused(
            f"{given} is malformed: {module!r} has rank {a.shape[0]}, and its config says {rank} "
            "(r, rank_pattern)"
        )
    if rank > max_rank:
        raise UpdateRefused(
            f"{given} has rank {rank} for {module!r} (rank_pattern), and policy.adapters.max_rank is "
            f"{max_rank}"
        )
    config.check_scaling(module)


def _linear_modules(tensors: dict[str, TensorKind]) -> dict[str, list[int]]:
    """The shapes of all weights of linear modules, by the module's name without what it is named below."""
    return {
        _WRAPPER_PREFIX.sub("", name.removesuffix(".weight")): tensor.shape
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }


def _check_module(given: str, module: str, a: Tensor, b: Tensor, modules: dict[str, list[int]]) -> None:
    """Compares a pair of low-rank matrices with the weight that it is added to."""
    name = _WRAPPER_PREFIX.sub("", module)
    if name == "lm_head" and name not in modules and "embed_tokens" in modules:
        name = "embed_tokens"  # which are the output weights, too
    elif name.endswith("embed_tokens"):
        raise UpdateRefused(
            f"{given} adapts {module!r}, and adapters are taken of linear modules alone: leave the "
            "embeddings out of its target_modules, or give a full checkpoint"
        )
    weight = modules.get(name)
    if weight is None:
        raise UpdateRefused(f"{given} is for another base model: this one has no module {module!r}")
    for side, found, right in (("A", a.shape[1], weight[1]), ("B", b.shape[0], weight[0])):
        if found != right:
            shape = a.shape if side == "A" else b.shape
            raise UpdateRefused(
                f"{given} is for another base model: {module!r} has shape {weight} here, and its {side} "
                f"is {shape}"
            )


def _check_place(given: str, module: str, served: ServedModel) -> None:
    """Sees that a module of the language model's layers is named as this model has it.

    By another name, as the class without a head or the one without an image tower gives, vLLM finds no
    module, and serves the base model without a word.
    """
    name = _WRAPPER_PREFIX.sub("", module)
    names = {full.removesuffix(".weight") for full in served.tensors or {}}
    if module in names or not (name.startswith("layers.") or name == "lm_head"):
        return
    has_parts = isinstance((served.config or {}).get("text_config"), dict) or any(
        "language_model." in full for full in names
    )
    here = next((full for full in sorted(names) if _WRAPPER_PREFIX.sub("", full) == name), name)
    others = ["lm_head", *(["language_model.lm_head"] if has_parts else [])]
    if name.startswith("layers."):
        others = [wrapper + name for wrapper in _MAPPED_WRAPPERS] if has_parts else []
    if module in others:
        return
    raise UpdateRefused(
        f"{given} adapts {module!r}, which the served model has as {here!r}: vLLM would find no such module, "
        "and serve the base model alone; train it from the class that the served model's config.json names "
        "(architectures)"
    )


def _check_served(given: str, module: str, served: ServedModel, config: AdapterConfig) -> None:
    """Sees that vLLM adds a pair where PEFT does; what it has no place for, it leaves out without a word."""
    if ".experts." in module and config.is_rank_stabilised:
        raise UpdateRefused(
            f"{given} has use_rslora and adapts {module!r}: vLLM scales experts by lora_alpha / r even so; "
            "train without use_rslora, or without experts"
        )
    if isinstance((served.config or {}).get("text_config"), dict) and _TOWER_NAMES.search(f"{module}."):
        raise UpdateRefused(
            f"{given} adapts {module!r}, and vLLM adapts the language model alone: leave it out of "
            "target_modules (exclude_modules)"
        )
    layers, found = _count_layers(served), _LAYER_NUMBER.match(_WRAPPER_PREFIX.sub("", module))
    if layers is not None and found is not None and int(found[1]) >= layers:
        raise UpdateRefused(
            f"{given} adapts {module!r}, and the served model has {layers} layers, counted from 0"
        )


def _check_targets(
    given: str,
    config: AdapterConfig,
    adapted: Collection[str],
    modules: Collection[str] | None,
    layers: int | None,
) -> None:
    """Sees that the file has no modules but those that the config names, and says which of these it lacks."""
    for module in sorted(adapted):
        if config.targets(module) is False:
            raise UpdateRefused(
                f"{given} has weights for {module!r}, which its target_modules does not name: PEFT would "
                "leave them out, and vLLM would not"
            )
    if modules is None:
        return
    known = {_WRAPPER_PREFIX.sub("", module): module for module in adapted}
    wrapper = next(
        (full.removesuffix(name) for name, full in known.items() if name.startswith("layers.")), ""
    )
    lacking: list[str] = []
    adapts_experts = any(".experts." in name for name in known)
    for name in sorted(modules):
        found = _LAYER_NUMBER.match(name)
        if name in known or found is None or (layers is not None and int(found[1]) >= layers):
            continue
        if ".experts." in name and adapts_experts:
            raise UpdateRefused(
                f"{given} adapts some experts, and not {name!r}; vLLM takes all of them or none"
            )
        if ".experts." not in name and config.targets(f"{wrapper}{name}"):
            lacking.append(f"{wrapper}{name}")
    if not lacking:
        return
    named = f"{given}: its target_modules names {lacking[0]!r}, and there are no weights for it"
    more = f" ({len(lacking)} such modules)" if len(lacking) > 1 else ""
    if config.begins_with_an_effect:
        raise UpdateRefused(
            f"{named}{more}; by its init_lora_weights, PEFT would fill in random numbers, and vLLM nothing"
        )
    _log.warning("%s%s: it is served without an effect there, as PEFT takes it", named, more)


def _count_layers(served: ServedModel) -> int | None:
    """How many layers the served language model has; None if that is not known."""
    config = served.config or {}
    text: Any = config.get("text_config")
    language = cast(dict[str, Any], text) if isinstance(text, dict) else config
    layers = language.get("num_hidden_layers")
    return layers if isinstance(layers, int) else None
