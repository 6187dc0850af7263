"""Machines that share a bucket, and what a run's files say."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.dataset.schemas import STEP_KEYS
from tests.helpers.bucket_runs import Machines
from tests.helpers.failing_storage import Bucket
from workers.records import EpisodeRecord, StepRecord


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    Bucket.clear()
    found = Machines(tmp_path, monkeypatch)
    found.use("here")
    yield found
    Bucket.clear()


def read_back(run_dir: Path) -> list[EpisodeRecord]:
    """The records again, from the Parquet files alone."""
    steps: dict[str, list[StepRecord]] = {}
    for file in sorted((run_dir / "steps").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            own = {name: value for name, value in row.items() if name not in STEP_KEYS}
            steps.setdefault(row["episode_id"], []).append(StepRecord(**own))
    return [
        EpisodeRecord(**row, steps=steps.get(row["episode_id"], []))
        for file in sorted((run_dir / "episodes").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
