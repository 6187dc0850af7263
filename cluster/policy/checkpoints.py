"""Full checkpoints as files: what makes one fit in the place of a deployment's model."""

import json
from pathlib import Path
from typing import Any

from cluster.errors import UpdateRefused
from cluster.policy.tensor_files import folder_shapes

CONFIG = "config.json"
_TIED = "lm_head.weight"
"""Left out, or not, where a model's output weights are its embeddings."""
_FREE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map")
"""What may differ between the configs of two checkpoints of one architecture."""


def check_checkpoint(checkpoint: Path, called: str, model: Path | None) -> None:
    """Sees that a checkpoint is whole, and of the same architecture as the model that is served.

    Args:
        checkpoint: A folder as transformers' `save_pretrained` writes it, with a `config.json`.
        called: What the user calls that.
        model: The served model's folder. None: it is not here, and not compared with.

    Raises:
        UpdateRefused: It does not fit.
    """
    given = f"the checkpoint {called}"
    try:
        config = _config(checkpoint)
        shapes = folder_shapes(checkpoint)
    except (ValueError, TypeError, OSError) as error:
        raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
    if not shapes:
        raise UpdateRefused(f"{given} is malformed: there are no weights in it, *.safetensors")
    if model is not None:
        _check_config(given, config, _config(model))
        _check_tensors(given, shapes, folder_shapes(model))


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    if not isinstance(config, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{CONFIG} holds no object")
    return config


def _check_config(given: str, config: dict[str, Any], served: dict[str, Any]) -> None:
    for name in sorted(config.keys() & served.keys()):
        if name not in _FREE and not name.endswith("_token_id") and config[name] != served[name]:
            raise UpdateRefused(
                f"{given} is of another architecture: its {name} is {config[name]!r}, and the served model's "
                f"is {served[name]!r}"
            )


def _check_tensors(given: str, shapes: dict[str, list[int]], served: dict[str, list[int]]) -> None:
    missing = sorted(served.keys() - shapes.keys() - {_TIED})
    if missing:
        raise UpdateRefused(f"{given} is not whole: it has no {missing[0]!r}, which the served model has")
    for name, shape in sorted(shapes.items()):
        if name not in served and name != _TIED:
            raise UpdateRefused(f"{given} is of another architecture: the served model has no {name!r}")
        if name in served and shape != served[name]:
            raise UpdateRefused(
                f"{given} is of another architecture: {name!r} has shape {shape}, and the served model's "
                f"{served[name]}"
            )
