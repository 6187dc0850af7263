"""A version's files: copied with a checksum of each, by which every replica sees that it reads the same."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

CHECKSUM_FILE = "kumite-sums.json"
"""In the folder of each version: what was copied there."""
_BLOCK_BYTES = 1 << 24


class CopiedFile(BaseModel):
    """A file as it was when it was copied."""

    size: int
    digest: str
    """BLAKE2b, 16 bytes, of its content."""


class CopiedWeights(BaseModel):
    """All files of a version."""

    files: dict[str, CopiedFile]

    @property
    def digest(self) -> str:
        """One digest of them all: what makes two versions the same weights."""
        text = json.dumps(sorted((name, file.digest) for name, file in self.files.items()))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def copy_weights(files: list[Path], target: Path) -> str:
    """Copies files into a new folder, with their checksums beside them.

    Returns:
        A digest of all their contents.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: A file changed while it was copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    copied: dict[str, CopiedFile] = {}
    for file in files:
        before = file.stat()
        hashed = hashlib.blake2b(digest_size=16)
        with file.open("rb") as source, (target / file.name).open("wb") as sink:
            while block := source.read(_BLOCK_BYTES):
                hashed.update(block)
                sink.write(block)
        after = file.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ValueError(f"{file.name} was written to meanwhile; give the folder once it is complete")
        copied[file.name] = CopiedFile(size=after.st_size, digest=hashed.hexdigest())
    weights = CopiedWeights(files=copied)
    (target / CHECKSUM_FILE).write_text(weights.model_dump_json(), encoding="utf-8")
    return weights.digest


def check_copy(folder: Path) -> None:
    """Sees that a folder holds what was copied there. One without checksums is as old as these are not.

    Raises:
        ValueError: A file is missing, or is another.
    """
    try:
        weights = CopiedWeights.model_validate_json((folder / CHECKSUM_FILE).read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder / CHECKSUM_FILE} cannot be read: {error}") from error
    for name, copied in weights.files.items():
        try:
            same = (folder / name).stat().st_size == copied.size and _file_digest(
                folder / name
            ) == copied.digest
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be read: {error}") from error
        if not same:
            raise ValueError(f"{folder / name} is not the file that was put there: its checksum differs")


def _file_digest(file: Path) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            hashed.update(block)
    return hashed.hexdigest()
