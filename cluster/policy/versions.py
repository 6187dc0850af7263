"""The versions of a policy's weights: a folder that the deployment's replicas read."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ValidationError

from cluster.dataset.durable import replacing
from cluster.errors import UpdateRefused
from cluster.policy import adapters, checkpoints
from workers.versions import name_of

FOLDER_VARIABLE = "KUMITE_VERSIONS"
"""Tells replicas the folder. In it a version N is the folder `vN`."""
Kind: TypeAlias = Literal["adapter", "checkpoint"]


class Current(BaseModel):
    """What is in use."""

    version: int = 0
    """The version that new episodes act with."""
    base: int = 0
    """Version of the full weights beneath: itself, or, of an adapter, what it is added to. 0: the model that
    the deployment was started with."""
    oldest: int = 0
    """The oldest version that is still served, of those that are adapters."""


class VersionFolder:
    """A deployment's versions.

    Args:
        path: The folder; it need not be there yet.
        model: The folder of the model it was started with, where it is here; new weights are compared
            with it.
        max_rank: Highest rank of an adapter that vLLM takes. None: it takes none.
        kept: Adapters that stay, the newest included. None: all.
    """

    def __init__(
        self,
        path: Path,
        model: Path | None = None,
        max_rank: int | None = None,
        kept: int | None = None,
    ) -> None:
        self.path = path
        self._model = model
        self.max_rank = max_rank
        self.kept = kept

    @property
    def current(self) -> Current:
        """What is in use."""
        try:
            return Current.model_validate_json((self.path / "current.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return Current()

    @property
    def version(self) -> int:
        """The version that new episodes act with."""
        return self.current.version

    @classmethod
    def of_replica(cls) -> "VersionFolder":
        """Those of the deployment that this process is a replica of."""
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    def adapter(self, version: int) -> Path | None:
        """Folder of a version that is an adapter; None if it is none, or not here."""
        folder = self.path / name_of(version)
        return folder if (folder / adapters.CONFIG).is_file() else None

    def checkpoint(self, version: int) -> Path | None:
        """Folder of a version's full weights; None if it has none here, as 0 has not."""
        folder = self.path / name_of(version)
        return folder if (folder / checkpoints.CONFIG).is_file() else None

    def put(self, weights: Path, version: int, called: str | None = None) -> Kind:
        """Checks new weights and copies them in; they are not in use before `use`.

        Args:
            weights: A LoRA adapter's folder as PEFT writes it, or a full checkpoint's as transformers does.
            version: Their version, above the present one.
            called: What the user calls the folder. None: its path.

        Returns:
            What they are. The copy appears as a whole or not at all.

        Raises:
            UpdateRefused: They are missing, malformed, for another model, or their version is not new.
        """
        if version <= self.version:
            raise UpdateRefused(
                f"version {version} is not above the policy's present one, {self.version}; versions only grow"
            )
        kind = self._check(weights, called or str(weights))
        target = self.path / name_of(version)
        fresh = self.path / f".{target.name}-{os.getpid()}"
        try:
            fresh.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # of an update that was refused half-way
            for file in sorted(weights.iterdir()):
                if file.suffix in (".json", ".safetensors"):
                    shutil.copyfile(file, fresh / file.name)
            fresh.rename(target)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise UpdateRefused(
                f"the weights {called or weights} cannot be copied to {self.path}: {error}"
            ) from error
        return kind

    def oldest(self) -> int:
        """The oldest of the adapters that stay; 0 if there are none."""
        return min(self._adapters()[-(self.kept or 0) :], default=0)

    def use(self, version: int, kind: Kind, busy: Collection[int] = ()) -> None:
        """Makes a version that was put there the present one; what can no longer act goes.

        Args:
            version: The version.
            kind: What it is.
            busy: Adapters that a request is still answered by; they stay, until the next version comes.
        """
        base = version if kind == "checkpoint" else self.current.base
        current = Current(version=version, base=base, oldest=self.oldest())
        with replacing(self.path / "current.json") as temporary:
            temporary.write_text(current.model_dump_json(), encoding="utf-8")
        if kind == "adapter":
            gone = {name_of(old) for old in self._adapters() if old < current.oldest and old not in busy}
        else:
            gone = {folder.name for folder in self.path.glob("v*")} - {name_of(version)}
        for name in gone:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def drop(self, version: int) -> None:
        """Takes away a version that the deployment refused."""
        shutil.rmtree(self.path / name_of(version), ignore_errors=True)

    def clear(self) -> None:
        """Takes away all versions: the deployment is at the first one again, or gone."""
        shutil.rmtree(self.path, ignore_errors=True)

    def unshared(self) -> UpdateRefused:
        """Why no weights are taken where other machines' replicas do not see this folder."""
        return UpdateRefused(
            f"policy.versions_folder is not set: replicas on other nodes cannot read {self.path}; name a "
            "folder that all nodes share"
        )

    def _adapters(self) -> list[int]:
        """Those that are here, the oldest first."""
        names = (folder.name.removeprefix("v") for folder in self.path.glob("v*"))
        versions = sorted(int(name) for name in names if name.isdecimal())
        return [version for version in versions if self.adapter(version) is not None]

    def _check(self, weights: Path, called: str) -> Kind:
        if (weights / adapters.CONFIG).is_file():
            adapters.check_adapter(weights, called, self._model, self.max_rank)
            return "adapter"
        if (weights / checkpoints.CONFIG).is_file():
            checkpoints.check_checkpoint(weights, called, self._model)
            return "checkpoint"
        lacking = f"there is no {adapters.CONFIG} and no {checkpoints.CONFIG} in it"
        raise UpdateRefused(
            f"the weights {called}: "
            + (lacking if weights.is_dir() else "there is no such folder")
            + "; give a LoRA adapter's folder or a full checkpoint's"
        )
