"""What an adapter's config means to PEFT, and which of it vLLM serves."""

import json
import math
import re
from pathlib import Path
from typing import Any, cast

from cluster.errors import UpdateRefused

CONFIG = "adapter_config.json"
_IGNORED_KEYS = frozenset(
    [
        "peft_version",
        "auto_mapping",
        "revision",
        "inference_mode",
        "task_type",
        "lora_dropout",
        "qalora_group_size",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
    ]
)
"""Keys that no answer depends on, whatever they hold: book-keeping, and what begins or steadies training."""
_CHECKED_KEYS = frozenset(
    [
        "peft_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
        "base_model_name_or_path",
        "bias",
    ]
)
_UNSERVED_FEATURES = {
    "use_dora": "DoRA scales each row of a weight anew, which vLLM does not: merge it into a full checkpoint",
    "modules_to_save": "whole modules that were trained beside the adapter are not served: give a full "
    "checkpoint",
    "trainable_token_indices": "vLLM has no trained tokens beside the embeddings: give a full checkpoint",
    "layer_replication": "vLLM repeats no layers: give a full checkpoint of the larger model",
    "lora_bias": "vLLM adds no bias of lora_B: train with lora_bias false",
    "fan_in_fan_out": "vLLM takes weights as linear modules have them: set it to false",
    "target_parameters": "vLLM reads adapters of modules, not of single parameters",
    "alora_invocation_tokens": "vLLM would use the adapter from the first token on",
    "megatron_config": "vLLM reads what PEFT writes for transformers' modules",
}
_NEUTRAL_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to initialise an adapter that leave the base model as it is."""


class AdapterConfig:
    """An adapter's config, seen to be one whose meaning vLLM shares.

    Args:
        adapter: The adapter's folder.
        given: What errors call it.

    Raises:
        UpdateRefused: It is none, or vLLM would serve something else.
    """

    def __init__(self, adapter: Path, given: str) -> None:
        self._given = given
        try:
            config: Any = json.loads((adapter / CONFIG).read_bytes())
        except (ValueError, OSError, RecursionError) as error:
            raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
        if not isinstance(config, dict):
            raise UpdateRefused(f"{given} is malformed: {CONFIG} holds no object")
        self._config = cast(dict[str, Any], config)
        self._check_kind()
        self.rank = self._read_whole_number("r")
        if self.rank < 1:
            raise UpdateRefused(f"{given} has rank r {self.rank}, and it must be at least 1")
        self.base: str | None = self._read_text("base_model_name_or_path")
        self._alpha = self._read_number("lora_alpha", 8.0)
        self._rank_pattern = self._read_pattern("rank_pattern")
        self._alpha_pattern = self._read_pattern("alpha_pattern")
        self._check_features()

    def rank_of(self, module: str) -> int:
        """The rank that PEFT gives a module's adapter."""
        return int(_matching_value(self._rank_pattern, module, self.rank))

    def check_scaling(self, module: str) -> None:
        """Sees that vLLM scales a module's adapter as PEFT does: it has one scale for all.

        Raises:
            UpdateRefused: It does not.
        """
        rank, alpha = self.rank_of(module), _matching_value(self._alpha_pattern, module, self._alpha)
        meant, served = self._compute_scale(alpha, rank), self._compute_scale(self._alpha, self.rank)
        if math.isclose(meant, served, rel_tol=1e-6):
            return
        names = [
            name
            for name, pattern in (
                ("alpha_pattern", self._alpha_pattern),
                ("rank_pattern", self._rank_pattern),
            )
            if _matching_key(pattern, module) is not None
        ]
        raise UpdateRefused(
            f"{self._given} has {' and '.join(names)}, by which PEFT scales {module!r} by {meant:g}; "
            f"vLLM does not read that, and would scale it by {served:g} as all others (lora_alpha "
            f"{self._alpha:g}, r {self.rank}): train with one lora_alpha and one r, or give a full checkpoint"
        )

    def targets(self, module: str) -> bool | None:
        """Whether the config says that a module is adapted; None where it does not say."""
        targets = self._config.get("target_modules")
        try:
            if _matches(self._config.get("exclude_modules") or [], module):
                return False
            if targets is None:
                return None
            if isinstance(targets, str) and targets.lower() == "all-linear":
                return False if module.rpartition(".")[2] == "lm_head" else None
            if isinstance(targets, str):
                return re.fullmatch(targets, module) is not None
            if module in targets:  # by its full name, whatever layers are chosen
                return True
            return _matches(targets, module) and self._is_chosen_layer(module)
        except (re.error, TypeError) as error:
            raise UpdateRefused(f"{self._given} is malformed: its target_modules: {error}") from error

    @property
    def is_rank_stabilised(self) -> bool:
        """Whether it is scaled by the root of the rank."""
        return self._config.get("use_rslora") is True

    @property
    def begins_with_an_effect(self) -> bool:
        """Whether PEFT begins a module's adapter with numbers that change what the module gives."""
        return self._config.get("init_lora_weights", True) in (False, "orthogonal")

    def _check_kind(self) -> None:
        kind = self._config.get("peft_type")
        if kind not in (None, "LORA"):
            raise UpdateRefused(f"{self._given} has peft_type {kind!r}, and vLLM serves LORA alone")

    def _check_features(self) -> None:
        bias = self._config.get("bias", "none")
        if bias not in ("none", None):
            raise UpdateRefused(
                f"{self._given} has bias {bias!r}, and vLLM serves no biases of an adapter: train with 'none'"
            )
        beginning = self._config.get("init_lora_weights")
        if beginning not in _NEUTRAL_INITIALISATIONS:
            raise UpdateRefused(
                f"{self._given} has init_lora_weights {beginning!r}, by which PEFT changes the base "
                "model's own weights, and the deployment has the unchanged ones: save it with "
                "save_pretrained(folder, path_initial_model_for_weight_conversion=…)"
            )
        rslora = self._config.get("use_rslora")
        if rslora not in (None, True, False):
            raise UpdateRefused(
                f"{self._given} is malformed: its use_rslora is {rslora!r}, not true or false"
            )
        for name, value in sorted(self._config.items()):
            if name in _IGNORED_KEYS or name in _CHECKED_KEYS or not value:
                continue
            if name == "ensure_weight_tying":
                continue  # of embeddings and output weights: an adapter of embeddings is refused by itself
            why = _UNSERVED_FEATURES.get(name, "vLLM does not read that")
            raise UpdateRefused(f"{self._given} has {name} {value!r}: {why}")

    def _is_chosen_layer(self, module: str) -> bool:
        chosen: Any = self._config.get("layers_to_transform")
        if chosen is None or chosen == []:
            return True
        patterns: Any = self._config.get("layers_pattern") or []
        found = None
        if not patterns:
            found = re.match(r".*?\.[^.]*\.(?P<index>\d+)\.", module)
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = found or re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", module)
        layers: list[Any] = cast(list[Any], chosen) if isinstance(chosen, list) else [chosen]
        return found is not None and int(found["index"]) in layers

    def _compute_scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)

    def _read_whole_number(self, name: str) -> int:
        value = self._config.get(name)
        if type(value) is not int:
            raise UpdateRefused(f"{self._given} is malformed: its {name} is {value!r}, not a whole number")
        return value

    def _read_number(self, name: str, default: float) -> float:
        value = self._config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UpdateRefused(f"{self._given} is malformed: its {name} is {value!r}, not a finite number")
        return float(value)

    def _read_text(self, name: str) -> str | None:
        value = self._config.get(name)
        if value is not None and not isinstance(value, str):
            raise UpdateRefused(f"{self._given} is malformed: its {name} is {value!r}, not a text")
        return value or None

    def _read_pattern(self, name: str) -> dict[str, float]:
        pattern: Any = self._config.get(name) or {}
        if not isinstance(pattern, dict):
            raise UpdateRefused(f"{self._given} is malformed: its {name} is {pattern!r}, not an object")
        pattern = cast(dict[str, Any], pattern)
        for key, value in pattern.items():
            whole = name == "rank_pattern"
            right = type(value) is int and value > 0 if whole else type(value) in (int, float)
            if not right or not math.isfinite(value) or not _is_pattern(key):
                raise UpdateRefused(f"{self._given} is malformed: its {name} has {key!r}: {value!r}")
        return pattern


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _matching_key(pattern: dict[str, float], module: str) -> str | None:
    """The first key of a pattern that matches a module, as PEFT's `get_pattern_key` finds it."""
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", module)), None)


def _matching_value(pattern: dict[str, float], module: str, default: float) -> float:
    key = _matching_key(pattern, module)
    return default if key is None else pattern[key]


def _matches(names: Any, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
