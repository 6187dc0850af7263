"""LoRA adapters as files: what makes one fit a base model."""

import json
from pathlib import Path
from typing import Any

from cluster.errors import UpdateRefused
from cluster.policy.tensor_files import file_shapes, folder_shapes

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ROOT = "base_model.model."
"""PEFT's prefix of the names of the base model's modules."""


def check_adapter(adapter: Path, called: str, base: Path | None, max_rank: int | None) -> None:
    """Sees that an adapter is whole and fits.

    Args:
        adapter: A folder as PEFT's `save_pretrained` writes it, with an `adapter_config.json`.
        called: What the user calls that.
        base: The base model's folder. None: it is not here, and not compared with.
        max_rank: Highest rank that the deployment takes. None: it takes no adapters.

    Raises:
        UpdateRefused: It does not.
    """
    given = f"the adapter {called}"
    if max_rank is None:
        raise UpdateRefused(
            f"{given}: policy.adapters is not set for this deployment, which takes full checkpoints only"
        )
    try:
        config: dict[str, Any] = json.loads((adapter / CONFIG).read_bytes())
        rank = int(config["r"])
        shapes = file_shapes(adapter / WEIGHTS)
    except FileNotFoundError:
        raise UpdateRefused(f"{given} is malformed: there is no {WEIGHTS} in it") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
    if rank > max_rank:
        raise UpdateRefused(f"{given} has rank {rank}, and policy.adapters.max_rank is {max_rank}")
    if base is not None:
        _check_base(given, shapes, folder_shapes(base))


def _check_base(given: str, adapter: dict[str, list[int]], base: dict[str, list[int]]) -> None:
    """Compares each pair of low-rank matrices with the weight that it is added to."""
    if not adapter:
        raise UpdateRefused(f"{given} is malformed: it has no weights")
    for name, shape in adapter.items():
        module, found, side = name.removeprefix(_ROOT).rpartition(".lora_")
        weight = base.get(f"{module}.weight")
        dimension = {"A.weight": 1, "B.weight": 0}.get(side)
        if not found or dimension is None:
            raise UpdateRefused(f"{given} is malformed: {name!r} is no LoRA weight")
        if weight is None:
            raise UpdateRefused(f"{given} is for another base model: this one has no module {module!r}")
        if shape[dimension] != weight[dimension]:
            raise UpdateRefused(
                f"{given} is for another base model: {module!r} has shape {weight} here, and its {side[0]} "
                f"is {shape}"
            )
