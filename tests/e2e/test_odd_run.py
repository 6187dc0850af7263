"""A run whose environment hangs, fails and asks for a key, on a Ray that was up before the key was set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.dataset.shards import iterate_episodes
from cluster.ray_session.kept import KeptCluster, find_kept
from tests.e2e.kumite import Run, write_config
from tests.helpers.mock_policy import MockPolicy

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SECRET = "sk-0f7e-which-nobody-may-see"


@pytest.fixture
def kept(kept_ray: Path, monkeypatch: pytest.MonkeyPatch) -> KeptCluster:
    """A Ray that somebody has kept whose shell had no key."""
    monkeypatch.setenv("KUMITE_CACHE", str(kept_ray))
    found = find_kept()
    assert found is not None
    return found


def written(folder: Path) -> Iterator[tuple[Path, str]]:
    """All files below a folder as text, tables by what their rows hold, too."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes().decode("utf-8", "replace")
            if path.suffix == ".parquet":
                yield path, json.dumps(pq.read_table(path).to_pylist(), default=str)


def test_what_an_episodes_code_does_is_its_own_and_its_key_reaches_it_and_no_file(
    kept: KeptCluster, kept_ray: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_JUDGE_KEY", SECRET)
    args = {"kind": "of_a_whole_run", "notes": str(tmp_path / "tried")}
    with MockPolicy() as policy:
        config = write_config(
            tmp_path / "config.yaml",
            environment={"id": "tests.helpers.odd_environments", "args": args},
            policy={"kind": "endpoint", "base_url": policy.base_url, "model": "mock"},
            workers={"max": 1, "episodes_per_worker": 4},
            episode={"timeout": 20},
        )
        run = Run("run", str(config), "--out", str(out), cache=kept_ray)
        try:
            assert run.wait() == 0, run.output
        finally:
            if run.process.poll() is None:
                run.kill()
    columns = ["task_id", "status", "reward", "attempt", "suite", "attack", "error"]
    rows: list[dict[str, Any]] = [r for t in iterate_episodes(out, columns) for r in t.to_pylist()]
    hang, key, shout, infrastructure, *others = sorted(rows, key=lambda row: int(row["task_id"]))
    assert hang["status"] == "failed" and hang["error"]["type"] == "EpisodeBlocked"
    assert (key["status"], key["reward"]) == ("finished", 1.0)
    assert shout["status"] == "failed" and "the key <SOME_JUDGE_KEY>" in shout["error"]["message"]
    assert (infrastructure["status"], infrastructure["attempt"]) == ("finished", 2)
    assert [(row["status"], row["reward"]) for row in others] == [("finished", 1.0)] * 8
    assert [(row["suite"], row["attack"]) for row in (hang, key)] == [("0", "true"), ("1", "true")]
    assert SECRET not in run.output
    files = [path for path, text in [*written(out), *written(Path(kept.logs))] if SECRET in text]
    assert files == []
    assert {"config.yaml", "run.json", "log.jsonl", "metrics.jsonl"} <= {path.name for path in out.iterdir()}
