"""New weights from wherever the trainer writes them, as a folder of this machine."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cluster.cache import cache_dir
from cluster.dataset.remote import is_uri, open_uri
from cluster.errors import UpdateRefused

_COPIED_SUFFIXES = (".json", ".jinja", ".safetensors")


@contextmanager
def fetch_weights(place: str) -> Generator[Path]:
    """Gives a folder with the weights for as long as it is open: they are copied on from there.

    Args:
        place: A folder, or the URI of one: `s3://bucket/path`, `gs://bucket/path`, or what else fsspec knows.

    Raises:
        UpdateRefused: The URI cannot be read.
    """
    if not is_uri(place):
        yield Path(place)
        return
    root = cache_dir() / "policy"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="fetched-") as scratch:
        try:
            files, folder = open_uri(place.rstrip("/"))
            files.invalidate_cache()  # a trainer may write each step's weights to one place
            for path in files.ls(folder, detail=False):
                name = str(path).rstrip("/").rpartition("/")[2]
                if name.endswith(_COPIED_SUFFIXES):
                    files.get_file(path, f"{scratch}/{name}")
        except (ImportError, ValueError, OSError) as error:
            raise UpdateRefused(f"the weights {place} cannot be read: {error}") from error
        yield Path(scratch)
