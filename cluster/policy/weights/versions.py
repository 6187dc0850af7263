"""The versions of a policy's weights: a folder that the deployment's replicas read."""

import os
import shutil
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from cluster.dataset.durable import RunFolderLocked, lock_folder, replacing
from cluster.errors import UpdateRefused
from cluster.policy.weights import adapters, checkpoints
from cluster.policy.weights.kept_settings import check_kept_settings
from cluster.policy.weights.served_model import ServedModel, read_config
from cluster.policy.weights.tensor_files import weight_files
from cluster.policy.weights.weights_copy import CHECKSUM_FILE, check_copy, copy_weights
from workers.policy.versions import version_name

FOLDER_VARIABLE = "KUMITE_VERSIONS"
"""Tells replicas the folder. In it a version N is the folder `vN`."""
Kind: TypeAlias = Literal["adapter", "checkpoint"]


class CurrentVersion(BaseModel):
    """The version that is in use."""

    version: int = 0
    """The version that new episodes act with."""
    base: int = 0
    """Version of the full weights beneath: itself, or, of an adapter, what it is added to. 0: the model that
    the deployment was started with."""
    oldest: int = 0
    """The oldest version that is still served, of those that are adapters."""
    given: dict[int, str] = Field(default_factory=dict[int, str])
    """Digests of the weights that numbers above the version were given for, and that did not come into use:
    replicas may hold them, so that other weights never get these numbers."""
    proven: list[str] = Field(default_factory=list[str])
    """Kinds of adapters that the deployment was seen to serve as PEFT means them."""


class VersionFolder:
    """The folder of a deployment's weight versions.

    Args:
        path: The folder; it need not be there yet.
        model: The folder of the model it was started with, where it is here; new weights are compared
            with it.
        max_rank: Highest rank of an adapter that vLLM takes. None: it takes none.
        kept: Adapters that stay, the newest included. None: all.
        names: What the model is known as, beside its folder.
    """

    def __init__(
        self,
        path: Path,
        model: Path | None = None,
        max_rank: int | None = None,
        kept: int | None = None,
        names: Collection[str] = (),
    ) -> None:
        self.path = path
        self.model = model
        self._names = names
        self.max_rank = max_rank
        self.kept = kept
        self.fixed_by: str | None = None
        """Why this process must not change the full weights. None: it may."""

    @property
    def current(self) -> CurrentVersion:
        """The version that is in use."""
        try:
            return CurrentVersion.model_validate_json((self.path / "current.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return CurrentVersion()

    @property
    def version(self) -> int:
        """The version that new episodes act with."""
        return self.current.version

    @property
    def next_version(self) -> int:
        """The lowest number that any weights can be given."""
        current = self.current
        return max(current.version, *current.given) + 1 if current.given else current.version + 1

    @property
    def base_folder(self) -> Path | None:
        """Folder of the full weights in use, where they are here."""
        base = self.current.base
        return self.checkpoint(base) if base else self.model

    @classmethod
    def of_replica(cls) -> "VersionFolder":
        """Those of the deployment that this process is a replica of."""
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    def adapter(self, version: int) -> Path | None:
        """Folder of a version that is an adapter; None if it is none, or not here."""
        folder = self.path / version_name(version)
        return folder if (folder / adapters.CONFIG).is_file() else None

    def checkpoint(self, version: int) -> Path | None:
        """Folder of a version's full weights; None if it has none here, as 0 has not."""
        folder = self.path / version_name(version)
        return folder if (folder / checkpoints.CONFIG).is_file() else None

    @contextmanager
    def being_updated(self) -> Generator[None]:
        """Lets one process at a time give new weights, and removes what a killed one had copied of its own.

        Raises:
            UpdateRefused: Another one does so now.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self.path)
        except RunFolderLocked as error:
            raise UpdateRefused(
                f"another process is giving new weights to the same deployment ({self.path}): wait until it "
                "has ended"
            ) from error
        except OSError as error:
            raise UpdateRefused(f"new weights cannot be put into {self.path}: {error}") from error
        try:
            for left in self.path.glob(".v*-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            Path(lock.name).unlink(missing_ok=True)
            lock.close()
            with suppress(OSError):  # it holds versions
                self.path.rmdir()

    def add_version(
        self, weights: Path, version: int, called: str | None = None, served: ServedModel | None = None
    ) -> Kind:
        """Checks new weights and copies them in; they are not in use before `use_version`.

        Args:
            weights: A LoRA adapter's folder as PEFT writes it, or a full checkpoint's as transformers does.
            version: Their version, above the present one, and new, unless it was given for the same weights.
            called: What the user calls the folder. None: its path.
            served: The model that they are compared with. None: what is in the folder of the model.

        Returns:
            What they are. The copy appears as a whole or not at all.

        Raises:
            UpdateRefused: They are missing, malformed, for another model, or their version is not new.
        """
        called = called or str(weights)
        if version <= self.version:
            raise UpdateRefused(
                f"version {version} is not above the policy's present one, {self.version}; versions only grow"
            )
        seen = _file_stamps(weights)
        kind = self._check_weights(weights, called, served or ServedModel.of_folder(self.model))
        target = self.path / version_name(version)
        fresh = self.path / f".{target.name}-{os.getpid()}"
        try:
            digest = copy_weights(self.list_files(weights, kind), fresh)
            if _file_stamps(weights) != seen:
                raise ValueError("the folder was written to meanwhile; give it once it is complete")
            self._claim_number(version, digest)
            shutil.rmtree(target, ignore_errors=True)  # of an update that was refused half-way
            fresh.rename(target)
        except (OSError, ValueError) as error:
            raise UpdateRefused(f"the weights {called} cannot be copied to {self.path}: {error}") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return kind

    def check_copy(self, version: int) -> None:
        """Sees that a version's files are those that were put there, to the last byte.

        Raises:
            ValueError: They are not.
        """
        check_copy(self.path / version_name(version))

    def oldest(self) -> int:
        """The oldest of the adapters that stay; 0 if there are none."""
        return min(self._adapters()[-(self.kept or 0) :], default=0)

    def use_version(self, version: int, kind: Kind, busy: Collection[int] = ()) -> None:
        """Makes a version that was put there the present one; what can no longer act goes.

        Args:
            version: The version.
            kind: What it is.
            busy: Adapters that a request is still answered by; they stay, until the next version comes.
        """
        before = self.current
        base = version if kind == "checkpoint" else before.base
        given = {number: digest for number, digest in before.given.items() if number > version}
        current = CurrentVersion(
            version=version, base=base, oldest=self.oldest(), given=given, proven=before.proven
        )
        self._write_current(current)
        if kind == "adapter":
            gone = {version_name(old) for old in self._adapters() if old < current.oldest and old not in busy}
        else:
            gone = {folder.name for folder in self.path.glob("v*")} - {version_name(version)}
        for name in gone:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def set_proven(self, kind: str) -> None:
        """Notes a kind of adapter that the deployment serves as PEFT means it."""
        current = self.current
        self._write_current(current.model_copy(update={"proven": [*current.proven, kind]}))

    def drop(self, version: int) -> None:
        """Takes away a version that the deployment refused; its number stays that of these weights."""
        shutil.rmtree(self.path / version_name(version), ignore_errors=True)

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

    def _claim_number(self, version: int, digest: str) -> None:
        """Gives weights their number, for ever."""
        current = self.current
        before = current.given.get(version, digest)
        if before != digest:
            raise UpdateRefused(
                f"version {version} was given for other weights before, which were not taken, and which "
                f"replicas may hold under that number; the next number is {self.next_version}"
            )
        self._write_current(current.model_copy(update={"given": {**current.given, version: digest}}))

    def _write_current(self, current: CurrentVersion) -> None:
        with replacing(self.path / "current.json") as temporary:
            temporary.write_text(current.model_dump_json(), encoding="utf-8")

    def _list_base_names(self) -> Mapping[str, Path | None]:
        """What an adapter may call its base model, with the folder of each name, where it is here."""
        bases: dict[str, Path | None] = {name: self.model for name in self._names}
        if self.model is not None:
            hub = [part for part in self.model.parts if part.startswith("models--")]
            bases[hub[-1].removeprefix("models--").replace("--", "/") if hub else str(self.model)] = (
                self.model
            )
            try:
                said = read_config(self.model).get("_name_or_path")
            except (OSError, ValueError):
                said = None
            if isinstance(said, str) and said:
                bases.setdefault(said, self.model)
        if bases and (base := self.current.base):
            bases[str(self.path / version_name(base))] = self.checkpoint(base)
        return bases

    def check_adapter(self, adapter: Path, called: str, served: ServedModel) -> None:
        """Sees that an adapter fits; see `adapters.check_adapter`."""
        adapters.check_adapter(adapter, called, served, self.max_rank, self._list_base_names())
        check_kept_settings(f"the adapter {called}", adapter, self.model)

    def _check_weights(self, weights: Path, called: str, served: ServedModel) -> Kind:
        if (weights / adapters.CONFIG).is_file():
            self.check_adapter(weights, called, served)
            return "adapter"
        if (weights / checkpoints.CONFIG).is_file():
            if self.fixed_by:
                raise UpdateRefused(f"the checkpoint {called}: {self.fixed_by}")
            checkpoints.check_checkpoint(weights, called, served)
            check_kept_settings(f"the checkpoint {called}", weights, self.model)
            return "checkpoint"
        lacking = f"there is no {adapters.CONFIG} and no {checkpoints.CONFIG} in it"
        raise UpdateRefused(
            f"the weights {called}: "
            + (lacking if weights.is_dir() else "there is no such folder")
            + "; give a LoRA adapter's folder or a full checkpoint's"
        )

    def list_files(self, weights: Path, kind: Kind) -> list[Path]:
        """The files of new weights that are copied: those that were checked, and the settings beside them."""
        checked = [weights / adapters.WEIGHTS] if kind == "adapter" else weight_files(weights)
        return sorted([*(file for file in weights.glob("*.json") if file.name != CHECKSUM_FILE), *checked])


def _file_stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells whether a folder's files are still those that were checked."""
    stamps: dict[str, tuple[int, int, int]] = {}
    for file in (*folder.glob("*.json"), *folder.glob("*.safetensors")):
        status = file.stat()
        stamps[file.name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps
