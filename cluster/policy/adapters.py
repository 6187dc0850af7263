"""The versions of a policy's weights: LoRA adapters in a folder that the deployment's replicas read."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cluster.durable import replacing
from cluster.errors import UpdateRefused
from workers.versions import name_of

FOLDER_VARIABLE = "KUMITE_ADAPTERS"
"""Tells a replica the folder. In it a version N is the folder `vN`."""
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ROOT = "base_model.model."
"""PEFT's prefix of the names of the base model's modules."""


class _Current(BaseModel):
    version: int


class AdapterFolder:
    """A deployment's versions. 0 is the base model, which is no adapter.

    Args:
        path: The folder; it need not be there yet.
        base: The base model's folder, where it is one; adapters are compared with it.
        max_rank: Highest rank that vLLM takes.
    """

    def __init__(self, path: Path, base: Path | None, max_rank: int) -> None:
        self.path = path
        self._base = base
        self.max_rank = max_rank

    @property
    def version(self) -> int:
        """The version that new episodes act with."""
        try:
            return _Current.model_validate_json((self.path / "current.json").read_bytes()).version
        except (FileNotFoundError, ValidationError):
            return 0

    def put(self, adapter: Path, version: int) -> Path:
        """Checks an adapter and copies it in; it is not in use before `use`.

        Args:
            adapter: A folder as PEFT's `save_pretrained` writes it.
            version: Its version, above the present one.

        Returns:
            The copy, which appears as a whole or not at all.

        Raises:
            UpdateRefused: It is missing, malformed, for another base model, or its version is not new.
        """
        if version <= self.version:
            raise UpdateRefused(
                f"version {version} is not above the policy's present one, {self.version}; versions only grow"
            )
        self._check(adapter)
        target = self.path / name_of(version)
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # of an update that was refused half-way
        fresh = self.path / f".{target.name}-{os.getpid()}"
        fresh.mkdir()
        for name in (_CONFIG, _WEIGHTS):
            shutil.copyfile(adapter / name, fresh / name)
        fresh.rename(target)
        return target

    def use(self, version: int) -> None:
        """Makes a version that was put there the present one."""
        with replacing(self.path / "current.json") as temporary:
            temporary.write_text(_Current(version=version).model_dump_json(), encoding="utf-8")

    def drop(self, version: int) -> None:
        """Takes away a version that the deployment refused."""
        shutil.rmtree(self.path / name_of(version), ignore_errors=True)

    def clear(self) -> None:
        """Takes away all versions: the deployment is at the base model again, or gone."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _check(self, adapter: Path) -> None:
        given = f"the adapter {adapter}"
        if not (adapter / _CONFIG).is_file():
            if (adapter / "config.json").is_file():
                raise UpdateRefused(
                    f"{given} is a full checkpoint; a deployment takes LoRA adapters while it is up, and a "
                    "checkpoint as policy.model"
                )
            raise UpdateRefused(f"{given} is missing, or no adapter: there is no {_CONFIG} in it")
        try:
            config: dict[str, Any] = json.loads((adapter / _CONFIG).read_bytes())
            rank = int(config["r"])
            shapes = _shapes(adapter / _WEIGHTS)
        except FileNotFoundError:
            raise UpdateRefused(f"{given} is malformed: there is no {_WEIGHTS} in it") from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UpdateRefused(f"{given} is malformed: {type(error).__name__}: {error}") from error
        if rank > self.max_rank:
            raise UpdateRefused(f"{given} has rank {rank}, and policy.adapters.max_rank is {self.max_rank}")
        if self._base is not None:
            _check_base(given, shapes, _base_shapes(self._base))


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


def _base_shapes(folder: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        shapes |= _shapes(file)
    return shapes


def _shapes(file: Path) -> dict[str, list[int]]:
    """Tensors' shapes by name, from a safetensors file's header; the file must be as long as that says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        if not 0 < length <= size - 8:
            raise ValueError(f"{file.name} is no safetensors file")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if size != 8 + length + end:
        raise ValueError(f"{file.name} is {size} bytes long, and should be {8 + length + end}")
    return {name: tensor["shape"] for name, tensor in header.items()}
