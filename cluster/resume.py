"""Whether a run can be taken up again: its config must ask for the same data."""

from pathlib import Path
from typing import Any, cast

from cluster.config import RunConfig, VllmPolicy
from cluster.config_file import load_config
from cluster.dataset.manifest import load_manifest
from cluster.dataset.run_folder import CHAT_TEMPLATE, ENVIRONMENT
from cluster.errors import ConfigError

_FREE = (
    "name",
    "output",
    "upload_seconds",
    "environment.folder",
    "workers",
    "ray",
    "episode",
    "observe",
    "sandbox.memory_mb",
    "sandbox.cpus",
    "sandbox.pids",
    "sandbox.start_timeout",
    "policy.keep_alive",
    "policy.start_timeout",
    "policy.request_timeout",
    "policy.replicas",
    "policy.max_replicas",
    "policy.cpu_kv_cache_gb",
    "policy.base_url",
    "policy.api_key_env",
    "policy.versions_folder",
)
"""Fields that may change between a run and its resumption: how and where, but not what."""


def resumable_config(folder: Path, config: RunConfig | None, *, loop: bool = False) -> RunConfig:
    """The config with which to take a run up again.

    Args:
        folder: The run's folder.
        config: One given anew; None for the run's own.
        loop: Whether it is a trainer's loop that takes it up.

    Raises:
        ConfigError: There is no run, it is a trainer's loop's and this is none, or the other way round, or
            the given config asks for other data; names the fields.
        ManifestError: The run's folder is of another version, or damaged.
    """
    manifest = load_manifest(folder)
    if manifest.loop is not None and not loop:
        raise ConfigError(
            f"--resume {folder}: a trainer's loop has played it, and only one can go on with it: "
            f"RolloutEngine(config, {str(folder)!r}, resume=True)"
        )
    if manifest.loop is None and loop:
        raise ConfigError(
            f"resume: the run in {folder} is none of a trainer's loop; `kumite run --resume {folder}` goes "
            "on with it"
        )
    before = load_config(folder / "config.yaml")
    if config is None:
        _check_environment(folder, before)
        _check_chat_template(folder, before)
        return before
    differing = _differences(before.model_dump(mode="json"), config.model_dump(mode="json"))
    if (folder / CHAT_TEMPLATE).is_file() and _chat_template(config) is not None:
        differing = [difference for difference in differing if difference[0] != "policy.chat_template"]
    if differing:
        listed = "\n".join(f"  {name}: was {was!r}, is {now!r}" for name, was, now in differing)
        raise ConfigError(f"--resume {folder}: the config asks for other data than the run's own:\n{listed}")
    _check_environment(folder, config)
    _check_chat_template(folder, config)
    return config


def _check_environment(folder: Path, config: RunConfig) -> None:
    """Sees that an environment that is a file is the one that the run began with, wherever it is now."""
    if not config.environment.id.endswith(".py"):
        return
    file, begun_with = Path(config.environment.id), folder / ENVIRONMENT
    if not file.is_file():
        raise ConfigError(
            f"--resume {folder}: the environment's file is no longer at {file}; give a config whose "
            f"environment.id says where it is (the run began with what is in {begun_with})"
        )
    if begun_with.is_file() and begun_with.read_bytes() != file.read_bytes():
        raise ConfigError(
            f"--resume {folder}: {file} is not what the run began with, which is {begun_with}; to go on "
            "with the new one nonetheless, copy it there"
        )


def _chat_template(config: RunConfig) -> Path | None:
    return config.policy.chat_template if isinstance(config.policy, VllmPolicy) else None


def _check_chat_template(folder: Path, config: RunConfig) -> None:
    """Sees that a chat template says what it said when the run began, wherever its file is now."""
    file, begun_with = _chat_template(config), folder / CHAT_TEMPLATE
    if file is None or not begun_with.is_file():
        return
    if not file.is_file():
        raise ConfigError(
            f"--resume {folder}: policy.chat_template is {str(file)!r}, and there is no such file here; say "
            f"where it is, or take the run's own copy: --set policy.chat_template={begun_with}"
        )
    if begun_with.read_bytes() != file.read_bytes():
        raise ConfigError(
            f"--resume {folder}: policy.chat_template {file} is not what the run began with, which is "
            f"{begun_with}: --set policy.chat_template={begun_with} takes that one"
        )


def _differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if path in _FREE or before == after:
        return []
    if path == "environment.id" and str(before).endswith(".py") and Path(before).name == Path(after).name:
        return []
    if not (isinstance(before, dict) and isinstance(after, dict)) or path == "environment.args":
        return [(path, before, after)]
    was, now = cast(dict[str, Any], before), cast(dict[str, Any], after)
    return [
        difference
        for name in dict.fromkeys([*was, *now])
        for difference in _differences(was.get(name), now.get(name), f"{path}.{name}".strip("."))
    ]
