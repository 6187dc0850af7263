"""A run's config as data, read without the environment that it names."""

from pathlib import Path
from typing import Any, cast

import yaml


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """The config of a run; empty where it is not there."""
    try:
        config: Any = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return cast(dict[str, Any], config) if isinstance(config, dict) else {}


def section(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section of a config; empty where it has none of this name."""
    for name in names:
        inner = config.get(name)
        config = cast(dict[str, Any], inner) if isinstance(inner, dict) else {}
    return config
