"""Which tasks a run plays, and by what it is told that they have changed since it began."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.dataset.durable import replacing
from cluster.dataset.manifest import TasksDigest

_CHUNK_SIZE = 4096
"""Tasks whose ids are packed together: as a list of texts, those of a million tasks would take 70 MB."""
_DIGEST = 8
"""Bytes that tell a task from what it was before."""
_AS_BYTES = ("utf-8", "surrogatepass")
FOLDER = "tasks"
"""Folder of a run folder that holds the lists."""
_arrow: Any = pa
_parquet: Any = pq


class TaskList:
    """Ids of tasks in their order, and a digest of what each asks for: its prompt and its answer.

    It is made as the tasks are read, one by one, and takes some 20 bytes for each beside its id.
    """

    def __init__(self) -> None:
        self._packed: list[Any] = []
        self._ids: list[bytes] = []
        self._digests = bytearray()
        self._content = self._info = 0
        self._order = hashlib.blake2s(digest_size=16)

    def __len__(self) -> int:
        return len(self._digests) // _DIGEST

    def add(self, task_id: str, row: dict[str, Any]) -> None:
        """Adds the next task."""
        whole = _digest_values(task_id, row.get("prompt"), row.get("answer"))
        self._digests += whole[:_DIGEST]
        self._content = (self._content + int.from_bytes(whole)) % 2**128
        self._info = (self._info + int.from_bytes(_digest_info(task_id, row.get("info")))) % 2**128
        self._order.update(whole)
        self._ids.append(task_id.encode(*_AS_BYTES))
        if len(self._ids) == _CHUNK_SIZE:
            self._packed.append(_arrow.array(self._ids, _arrow.binary()))
            self._ids = []

    @property
    def digest(self) -> TasksDigest:
        """What a manifest holds of it."""
        return TasksDigest(
            tasks=len(self),
            content=f"{self._content:032x}",
            order=self._order.hexdigest(),
            info=f"{self._info:032x}",
        )

    def ids(self, size: int) -> Iterator[list[str]]:
        """The ids in order, so many at a time; `size` must go into `_CHUNK_SIZE`."""
        for chunk in (*self._packed, self._ids):
            for start in range(0, len(chunk), size):
                part: Any = chunk[start : start + size]
                encoded = cast(list[bytes], part if isinstance(part, list) else part.to_pylist())
                yield [task_id.decode(*_AS_BYTES) for task_id in encoded]

    def write(self, run_dir: Path, split: str) -> None:
        """Writes it into a run folder, for its tasks to be named when they have changed."""
        path = _list_path(run_dir, split, self.digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = [*self._packed, _arrow.array(self._ids, _arrow.binary())]
        columns = {"task_id": _arrow.chunked_array(chunks), "digest": list(self._iterate_chunks())}
        with replacing(path) as temporary:
            _parquet.write_table(_arrow.table(columns), temporary)

    def changes(self, run_dir: Path, split: str, before: TasksDigest) -> dict[str, list[str]] | None:
        """Ids of the tasks that are not what they were: `changed`, `gone` and `new`.

        Args:
            run_dir: The run folder.
            split: Whose tasks.
            before: What the run began with.

        Returns:
            None where the run folder does not hold the list it began with.
        """
        try:
            table = _parquet.read_table(_list_path(run_dir, split, before))
        except (OSError, ValueError):  # Arrow's own errors are among them
            return None
        were = (task_id.decode(*_AS_BYTES) for task_id in table["task_id"].to_pylist())
        was = dict(zip(were, table["digest"].to_pylist(), strict=True))
        found: dict[str, list[str]] = {"changed": [], "gone": [], "new": []}
        ids = (task_id for part in self.ids(_CHUNK_SIZE) for task_id in part)
        for task_id, digest in zip(ids, self._iterate_chunks(), strict=True):
            earlier = was.pop(task_id, None)
            if earlier is None:
                found["new"].append(task_id)
            elif earlier != digest:
                found["changed"].append(task_id)
        found["gone"] = list(was)
        return found

    def _iterate_chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._digests), _DIGEST):
            yield bytes(self._digests[start : start + _DIGEST])


def _list_path(run_dir: Path, split: str, digest: TasksDigest) -> Path:
    return run_dir / FOLDER / f"{split}-{digest.content[:16]}.parquet"


def _digest_values(*values: Any) -> bytes:
    text = json.dumps(values, sort_keys=True, default=_json_default)
    return hashlib.blake2s(text.encode(), digest_size=16).digest()


def _digest_info(task_id: str, info: Any) -> bytes:
    try:
        return _digest_values(task_id, info)
    except (TypeError, ValueError, RecursionError):  # keys of several kinds, or an object that holds itself
        return _digest_values(task_id, type(info).__name__)


def _json_default(value: Any) -> str:
    """Bytes as they are; of what else JSON lacks only the kind, for its text may tell a place in memory."""
    return value.hex() if isinstance(value, bytes | bytearray) else type(value).__name__
