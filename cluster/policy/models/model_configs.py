"""Two models' configs compared: by what the shapes and the arithmetic depend on, and by nothing else."""

import copy
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

_TIMEOUT = 120.0
"""Seconds in which transformers must have loaded two configs; it took 5 on two cores."""
_IGNORED_KEYS = frozenset(
    [
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "auto_map",
        "use_bfloat16",
        "torchscript",
        "tokenizer_class",
        "prefix",
        "pretraining_tp",
        "gradient_checkpointing",
        "attn_implementation",
        "chunk_size_feed_forward",
        "tf_legacy_loss",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "return_dict",
        "use_return_dict",
        "return_dict_in_generate",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "id2label",
        "label2id",
        "num_labels",
        "initializer_range",
        "initializer_factor",
        "router_aux_loss_coef",
        "router_z_loss_coef",
        "router_jitter_noise",
        "aux_loss_alpha",
        "seq_aux",
        "layerdrop",
        "drop_path_rate",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "pruned_heads",
        "cross_attention_hidden_size",
        "remove_invalid_values",
        "max_length",
        "min_length",
        "max_new_tokens",
        "min_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "suppress_tokens",
        "begin_suppress_tokens",
        "exponential_decay_length_penalty",
    ]
)
"""Keys that a forward pass does not depend on: book-keeping, training's own, and how answers are sampled."""
_IGNORED_PREFIXES = ("_", "unsloth_")
_IGNORED_SUFFIXES = ("_token_id", "_token_ids", "dropout", "dropout_prob", "dropout_p")
_ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
_DERIVED_KEYS = ("layer_types", "head_dim", "max_window_layers")
_ACTIVATION_ALIASES = {"swish": "silu"}


def config_difference(given: dict[str, Any], served: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first key in which two configs describe other models, with both values; None if there is none.

    They are compared as transformers loads them, which fills in defaults and knows each key's older names;
    where it does not know the model, as they are written. A key that only one of them has says nothing.

    Args:
        given: A checkpoint's `config.json`.
        served: The served model's.
    """
    if _normalise_config(given) == _normalise_config(served):
        return None
    given, served = load_configs(given, served)
    return _find_difference(_normalise_config(given), _normalise_config(served))


def is_tied(config: dict[str, Any]) -> bool | None:
    """Whether a model's output weights are its embeddings; None where neither it nor transformers says so."""
    if "tie_word_embeddings" not in config:
        (config,) = load_configs(config)
    tied = config.get("tie_word_embeddings")
    return None if tied is None else bool(tied)


def load_configs(*configs: dict[str, Any]) -> list[dict[str, Any]]:
    """Configs as transformers loads them, all of them; as they are if it does not know one of them."""
    if not all(isinstance(config.get("model_type"), str) for config in configs):
        return list(configs)
    loaded = cast(
        list[dict[str, Any] | None], json.loads(_load_in_process(json.dumps(configs, sort_keys=True)))
    )
    known = [config for config in loaded if config is not None]
    return known if len(known) == len(configs) else list(configs)


@lru_cache(maxsize=16)
def _load_in_process(configs: str) -> str:
    """What `cluster.policy.models.load_configs` answers; a training loop gives one config at each step."""
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    unknown = json.dumps([None] * len(json.loads(configs)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.policy.models.load_configs"],
            input=configs,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return unknown
    return done.stdout if done.returncode == 0 else unknown


def _find_difference(given: dict[str, Any], served: dict[str, Any]) -> tuple[str, Any, Any] | None:
    for key in sorted(given.keys() & served.keys(), key=_key_order):
        some: Any = given[key]
        other: Any = served[key]
        if isinstance(some, dict) and isinstance(other, dict):
            below = _find_difference(cast(dict[str, Any], some), cast(dict[str, Any], other))
            if below is not None:
                return f"{key}.{below[0]}", below[1], below[2]
        elif some != other:
            return key, cast(Any, some), other
    return None


def _key_order(key: str) -> tuple[int, str]:
    """The kind of model first, and last what is derived from others."""
    return (0 if key == "model_type" else 2 if key in _DERIVED_KEYS else 1), key


def _normalise_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what does not count, and with one spelling of what has several."""
    used = {key: _normalise_value(key, value) for key, value in config.items() if not _is_ignored(key)}
    if used.get("architectures") is None:
        used.pop("architectures", None)
    _normalise_window(used)
    _normalise_rope(used)
    heads, size = used.get("num_attention_heads"), used.get("hidden_size")
    if isinstance(heads, int) and heads:
        if "num_key_value_heads" in used and used["num_key_value_heads"] is None:
            used["num_key_value_heads"] = heads
        if "head_dim" in used and used["head_dim"] is None and isinstance(size, int):
            used["head_dim"] = size // heads
    return used


def _is_ignored(key: str) -> bool:
    return key in _IGNORED_KEYS or key.startswith(_IGNORED_PREFIXES) or key.endswith(_IGNORED_SUFFIXES)


def _normalise_value(key: str, value: Any) -> Any:
    if isinstance(value, dict) and key not in _ROPE_KEYS:
        return _normalise_config(cast(dict[str, Any], value))
    if isinstance(value, str) and ("act" in key or "activation" in key):
        return _ACTIVATION_ALIASES.get(value, value)
    return cast(Any, value)


def _normalise_window(used: dict[str, Any]) -> None:
    """Qwen's configs say apart whether the window that they name is used."""
    named = "use_sliding_window" in used
    if named and (not used.pop("use_sliding_window") or used.get("sliding_window") is None):
        used["sliding_window"] = None
        used.pop("max_window_layers", None)


def _normalise_rope(used: dict[str, Any]) -> None:
    """Transformers 5 writes `rope_parameters`, and 4 wrote `rope_theta` beside `rope_scaling`."""
    theta, scaling = used.pop("rope_theta", None), used.pop("rope_scaling", None)
    parameters = used.pop("rope_parameters", None) or scaling
    if theta is None and parameters is None:
        return
    rope = copy.deepcopy(cast(dict[str, Any], parameters)) if isinstance(parameters, dict) else {}
    kinds = [cast(dict[str, Any], kind) for kind in rope.values() if isinstance(kind, dict)]
    for part in kinds or [rope]:
        old = part.pop("type", None)
        part.setdefault("rope_type", old or "default")
        if not kinds and theta is not None:
            part.setdefault("rope_theta", theta)
    used["rope_parameters"] = rope
    if all(part["rope_type"] == "default" for part in kinds or [rope]):
        used.pop("max_position_embeddings", None)  # then it is a limit, and nothing is computed with it
