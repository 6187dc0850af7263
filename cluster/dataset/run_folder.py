"""Where a run's files go."""

import time
from dataclasses import dataclass
from pathlib import Path

from cluster.config import RunConfig
from cluster.config_file import dump_config
from cluster.dataset.manifest import load_manifest, manifest_path
from cluster.dataset.remote import RemoteFolder, is_uri
from cluster.errors import ConfigError, RunError

ENVIRONMENT = "environment.py"
"""A run folder's copy of the environment's file, where the environment is a file."""


@dataclass(frozen=True)
class Target:
    """A run's folder, made anew or taken up again."""

    folder: Path
    run_id: str
    retry_failed: bool = False
    """Of a run taken up again: whether its failed episodes are played again."""
    remote: RemoteFolder | None = None
    """Where the folder is copied to while the run goes on, if the user named a URI."""

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
            if remote.local.exists():
                raise ConfigError(
                    f"--out {place}: a run that began there is in {remote.local}; give a new place, or "
                    "remove that folder"
                )
            return cls(remote.local, place.rstrip("/").rpartition("/")[2], remote=remote)
        folder = Path(place)
        if manifest_path(folder).exists():
            raise ConfigError(
                f"--out {folder}: there is a run in it already; give a new folder, or --resume {folder} "
                "(a RolloutEngine: resume=True)"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder}: it is not empty; give a folder that is new or empty")
        return cls(folder, name if out is None else folder.resolve().name)

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

    def make(self, config: RunConfig) -> None:
        """Makes the folder, with the config as it was resolved and the environment's file.

        One that holds the run stays as it is.

        Raises:
            RunError: It can't be made.
        """
        if manifest_path(self.folder).exists():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
            if config.environment.id.endswith(".py"):
                (self.folder / ENVIRONMENT).write_bytes(Path(config.environment.id).read_bytes())
        except OSError as error:
            raise RunError(f"the run's folder {self.folder} can't be made: {error.strerror}") from error
