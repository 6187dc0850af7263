"""Where a run's files go."""

import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cluster.config import RunConfig, VllmPolicy
from cluster.config.file import dump_config
from cluster.dataset.dataset import Dataset
from cluster.dataset.durable import (
    begin_folder,
    clear_vacant,
    end_folder,
    is_vacant,
    lock_folder,
    naming_place,
    replacing,
)
from cluster.dataset.manifest import Manifest, load_manifest, manifest_path, new_writer
from cluster.dataset.remote import RemoteFolder, is_uri
from cluster.dataset.take_up import COPIED, take_up
from cluster.errors import ConfigError, RunError
from workers.settings import PackageLock

ENVIRONMENT = "environment.py"
"""A run folder's copy of the environment's file, where the environment is a file."""


CHAT_TEMPLATE = "chat_template.jinja"
"""A run folder's copy of `policy.chat_template`, where there is one."""

PACKAGES = "packages.json"
"""The lock of `environment.requirements`, where there are any: what a resumption installs."""

_MADE = (
    "config.yaml",
    "run.json",
    ENVIRONMENT,
    CHAT_TEMPLATE,
    PACKAGES,
    "manifest.json",
    "log.jsonl",
    COPIED,
)

_JOB = ("RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR")
"""What Ray sets in the environment of a job's entrypoint."""


def _refuse_jobs_own_folder(folder: Path, field: str, given: str) -> None:
    """Refuses a run's folder in the copy of the working folder that Ray makes for a job, and then deletes.

    Raises:
        ConfigError: It is there, or would be.
    """
    in_copy = "runtime_resources" in folder.absolute().parts
    if in_copy or (not folder.is_absolute() and any(os.environ.get(name) for name in _JOB)):
        raise ConfigError(
            f"{field}: got {given!r}, and this is a Ray job, whose working folder is a copy that Ray "
            "deletes: the run would be lost. Give an absolute path that outlasts the job, such as --set "
            f"output={Path.home() / 'runs'}, or a URI, such as --set output=s3://bucket/runs"
        )


@dataclass
class _FolderHold:
    """What a process holds of a run's folder that it has taken for itself."""

    lock: IO[bytes] | None = None
    """The folder's lock, until the dataset is opened, which closes it."""
    manifest: Manifest | None = None
    """The manifest with which the run was taken up."""
    is_new: bool = False
    """Whether the run began with that."""
    made_folder: bool = False
    """Whether the folder was not there before: an empty one that the user has made stays."""


@dataclass(frozen=True)
class Target:
    """A run's folder, made anew or taken up again."""

    folder: Path
    run_id: str
    retry_failed: bool = False
    """Of a run taken up again: whether its failed episodes are played again."""
    remote: RemoteFolder | None = None
    """Where the folder is copied to while the run goes on, if the user named a URI."""
    _hold: _FolderHold = field(default_factory=_FolderHold, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.remote.uri if self.remote else str(self.folder)

    @classmethod
    def new(cls, config: RunConfig, out: str | None) -> "Target":
        """The folder of a new run: `out`, else `<output>/<name>-<time>`. It is not made yet.

        Raises:
            ConfigError: It holds a run already, or can't be one.
        """
        name = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        place = out or f"{config.output.rstrip('/')}/{name}"
        if is_uri(place):
            remote = RemoteFolder(place)
            if remote.holds_run():
                raise ConfigError(
                    f"--out {place}: there is a run in it already; give a new place, or --resume {place} "
                    "(a RolloutEngine: resume=True)"
                )
            if not is_vacant(remote.local):
                raise ConfigError(
                    f"--out {place}: a run that began there is in {remote.local}; give a new place, or "
                    "remove that folder"
                )
            run_id = place.rstrip("/").rpartition("/")[2]
            return cls(remote.local, run_id, remote=remote, _hold=_FolderHold(is_new=True))
        folder = Path(place)
        _refuse_jobs_own_folder(folder, "output" if out is None else "--out", place if out else config.output)
        if manifest_path(folder).exists():
            raise ConfigError(
                f"--out {folder}: there is a run in it already; give a new folder, or --resume {folder} "
                "(a RolloutEngine: resume=True)"
            )
        if not is_vacant(folder):
            raise ConfigError(f"--out {folder}: it is not empty; give a folder that is new or empty")
        return cls(folder, name if out is None else folder.resolve().name, _hold=_FolderHold(is_new=True))

    @classmethod
    def resumed(cls, place: str, retry_failed: bool) -> "Target":
        """The folder of a run to take up again.

        Raises:
            ManifestError: There is no run in it, or one of another version.
            ConfigError: There is no run at the URI, or it cannot be read.
        """
        remote = RemoteFolder(place) if is_uri(place) else None
        folder = remote.fetch() if remote else Path(place)
        return cls(folder, load_manifest(folder).run_id, retry_failed, remote)

    @property
    def is_new(self) -> bool:
        """Whether the run begins, and is not taken up again."""
        return self._hold.is_new or not manifest_path(self.folder).exists()

    @contextmanager
    def held(self, config: RunConfig) -> Generator[None]:
        """Takes the run's folder, and its place at the URI, for this process alone.

        To be entered before anything is brought up. The folder of a new run is made, and that a run is taken
        up again is put on record. What a new run leaves that ends before its dataset is opened is removed.

        Args:
            config: The run's.

        Raises:
            ConfigError: Another run has taken the place since `new` looked, or the URI can't be written.
            RunFolderLocked: Another process is writing the run.
            RunTakenUp: Another process takes the run up at the same moment.
            RunError: The folder can't be made.
        """
        hold = self._hold
        hold.is_new = hold.is_new or not manifest_path(self.folder).exists()
        hold.made_folder = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            hold.lock = lock_folder(self.folder)
        except OSError as error:
            raise RunError(f"the run's folder {self.folder} can't be made: {error.strerror}") from error
        try:
            if hold.is_new and not is_vacant(self.folder):
                hold.is_new = False  # what is in it is another's
                raise ConfigError(
                    f"--out {self.name}: another run has just begun there; give a new folder, or --resume "
                    f"{self.name}"
                )
            self._take_up(config)
            yield
        finally:
            self._release_hold()

    def _release_hold(self) -> None:
        """Releases the folder's lock, unless the dataset has taken it over."""
        lock, self._hold.lock = self._hold.lock, None
        if lock is None:
            return
        if self._hold.is_new:
            self._remove_unused()
        lock.close()

    def _take_up(self, config: RunConfig) -> None:
        hold = self._hold
        if hold.is_new:
            with naming_place(self.folder):
                begin_folder(self.folder)
                for name in _MADE:
                    (self.folder / name).unlink(missing_ok=True)
            self.make(config)
            manifest = Manifest(run_id=self.run_id)
        else:
            manifest = load_manifest(self.folder)
        try:
            if hold.is_new or self.remote is None:
                hold.manifest = take_up(self.folder, manifest, new_writer())
                end_folder(self.folder)
        except OSError as error:
            raise RunError(f"the run's folder {self.folder} can't be written: {error.strerror}") from error
        if self.remote is not None and hold.lock is not None:
            hold.lock, hold.manifest = self.remote.take_up(hold.lock, is_new=hold.is_new)

    def _remove_unused(self) -> None:
        """Removes what a new run that has not played anything has made."""
        if self.remote is not None and self._hold.manifest is not None:
            self.remote.withdraw(self._hold.manifest)
        shutil.rmtree(self.folder / "journal", ignore_errors=True)
        for path in self.folder.iterdir():
            if path.name in _MADE:
                path.unlink()
        clear_vacant(self.folder, remove=self._hold.made_folder)

    async def open_dataset(self) -> Dataset:
        """The run's dataset, open for writing; with `held`, it has the folder from now on.

        Raises:
            ManifestError: The folder holds another run.
            RunFolderLocked: Another process is writing this run.
            JournalCorrupt: The journal is damaged.
        """
        hold = self._hold
        lock, hold.lock = hold.lock, None
        writer = hold.manifest.writer if hold.manifest is not None else None
        dataset = await Dataset.open(self.folder, self.run_id, lock=lock, writer=writer)
        if self.remote is not None:
            self.remote.when_taken_up(dataset.refuse)
        return dataset

    def keep_packages(self, packages: PackageLock | None) -> None:
        """Notes the environment's own packages in the folder, for a resumption, unless it has a note of them.

        Raises:
            RunError: It can't be written.
        """
        if packages is None or (self.folder / PACKAGES).exists():
            return
        try:
            with replacing(self.folder / PACKAGES) as temporary:
                temporary.write_text(packages.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.folder / PACKAGES} can't be written: {error.strerror}") from error

    def make(self, config: RunConfig) -> None:
        """Makes the folder, with the config as it was resolved and the environment's file.

        One that holds the run stays as it is.

        Raises:
            ConfigError: The environment is a file that is not there.
            RunError: It can't be made.
        """
        if manifest_path(self.folder).exists():
            return
        environment = Path(config.environment.id)
        if environment.suffix == ".py" and not environment.is_file():
            raise ConfigError(f"environment.id: there is no file {environment}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / "config.yaml") as temporary:
                temporary.write_text(dump_config(config), encoding="utf-8")
            if environment.suffix == ".py":
                (self.folder / ENVIRONMENT).write_bytes(environment.read_bytes())
            template = config.policy.chat_template if isinstance(config.policy, VllmPolicy) else None
            if template is not None and template.is_file():
                (self.folder / CHAT_TEMPLATE).write_bytes(template.read_bytes())
        except OSError as error:
            raise RunError(f"the run's folder {self.folder} can't be made: {error.strerror}") from error
