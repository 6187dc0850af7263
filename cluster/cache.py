"""Where Kumite keeps what outlives a run: prepared models, and the record of a kept policy."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: `$KUMITE_CACHE`, else `$XDG_CACHE_HOME/kumite`, else `~/.cache/kumite`.

    It need not exist yet.
    """
    own = os.environ.get("KUMITE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser().absolute() if base else Path.home() / ".cache") / "kumite"
