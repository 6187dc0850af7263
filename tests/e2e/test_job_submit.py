"""`ray job submit --working-dir .` to a head that asks for its token, as docs/cluster.md tells users to."""

import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from cluster.observe.summary import summarise_run
from tests.e2e.kumite import until
from tests.helpers import slow_environment
from tests.helpers.ray_head import RayHead

PROJECT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^episodes (\d+)/(\d+)(?:, about \S+ left)?, running \d+, .*$", re.MULTILINE)
TASKS, AT_ONCE = 400, 8
LONGER = 4.0
"""Seconds: more than the 3 that Ray by itself leaves a stopped job."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all but the first episodes of `slow.yaml` wait."""
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Path:
    """A user's checkout, with the things beside the code that must not be uploaded."""
    tree = tmp_path_factory.mktemp("checkout")
    for file in tracked():
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / file, tree / file)
    for heavy in (".git/objects/pack", ".venv/lib/torch.so", "runs/old/episodes/1.parquet", ".ruff_cache/1"):
        (tree / heavy).parent.mkdir(parents=True)
        (tree / heavy).write_bytes(b"\0" * 2**20)
    slow = tree / "slow"
    slow.mkdir()
    shutil.copy(slow_environment.__file__, slow)
    config = {
        "name": "slow",
        "environment": {
            "id": "slow_environment.py",
            "args": {"tasks": TASKS, "gate": str(gate), "free": AT_ONCE},
        },
        "policy": {"kind": "oracle"},
        "workers": {"min": 1, "max": 1, "episodes_per_worker": AT_ONCE},
        "episode": {"drain_seconds": 200.0},
    }
    (slow / "slow.yaml").write_text(yaml.safe_dump(config))
    return tree


def tracked() -> list[str]:
    """The project's own files."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )
    return [file for file in listed.stdout.splitlines() if (PROJECT / file).is_file()]


def episode_ids(run: Path) -> list[str]:
    shards = sorted((run / "episodes").glob("*.parquet"))
    return [id for shard in shards for id in parquet.read_table(shard)["episode_id"].to_pylist()]


def test_upload_is_the_projects_own_files_and_as_large_as_the_page_says(tree: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    excludes = get_runtime_env_default_excludes()
    create_package(str(tree), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
    files = {name for name in names if not name.endswith("/")}
    assert files == {*tracked(), "slow/slow.yaml", "slow/slow_environment.py"}
    [megabytes] = re.findall(r"own files, about (\d+) MB", (PROJECT / "docs" / "cluster.md").read_text())
    assert package.stat().st_size == pytest.approx(int(megabytes) * 1e6, rel=0.5)


def test_job_stop_lets_episodes_in_flight_finish_and_commits(
    head: RayHead, tree: Path, gate: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = f"stop-{tmp_path.name}"
    entrypoint = ["python", "-m", "cluster", "run", "slow/slow.yaml", "--out", str(run)]
    submitted = head.ray(
        *("submit", "--no-wait", "--submission-id", job, "--working-dir", ".", "--", *entrypoint),
        timeout=600,
        cwd=tree,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    until(lambda: len(list(gate.iterdir())) == AT_ONCE, "episodes that wait")
    with ThreadPoolExecutor(1) as thread:
        stopping = thread.submit(head.ray, "stop", job, timeout=600)
        until(lambda: "SIGTERM" in (run / "log.jsonl").read_text() or stopping.done(), "its SIGTERM")
        time.sleep(LONGER)
        (gate / "open").touch()
        stopped = stopping.result()
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "was stopped" in stopped.stdout
    logs = head.ray("logs", job, timeout=600).stdout
    assert "SIGTERM" in logs and str(run) in logs and LINE.search(logs), logs
    ids = episode_ids(run)
    assert len(ids) == len(set(ids)) == 2 * AT_ONCE, logs
    assert not any((run / "journal").iterdir())
    assert summarise_run(run).failed == 0


def test_wrong_token_is_turned_away(head: RayHead, tree: Path) -> None:
    stranger = replace(head, environment=head.environment | {"RAY_AUTH_TOKEN": "wrong"})
    refused = stranger.ray("submit", "--working-dir", ".", "--", "true", timeout=600, cwd=tree)
    assert refused.returncode != 0
    assert "Invalid authentication token" in refused.stdout + refused.stderr


def test_run_with_a_wrong_token_is_one_error_that_says_where_it_looks(
    head: RayHead, tree: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "cluster",
        "run",
        "examples/countdown.yaml",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [*command, "--set", f"ray.address={head.gcs}"],
        cwd=tree,
        env=head.environment | {"RAY_AUTH_TOKEN": "wrong", "KUMITE_CACHE": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert f"error: ray.address is '{head.gcs}': the cluster asks for its token" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
