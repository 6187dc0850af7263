"""A run folder in a bucket, over the S3 protocol: moto's server on the loopback interface answers it."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.dataset as arrow_dataset
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from pyarrow.fs import FileSelector, S3FileSystem

from tests.cluster.test_run_life import QUIET, RunLife
from tests.e2e.kumite import cache_in, until, write_config
from tests.helpers.ray_head import free_ports

MOTO = "moto[server]==5.2.5"
"""Run by uv in an environment of its own: botocore asks for an older python-dateutil than pandas does."""
TASKS, AT_ONCE = 8, 4

pytestmark = [pytest.mark.ray, pytest.mark.slow]
pytestmark += [pytest.mark.group("own ray")]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3FileSystem]:
    """S3, as this process and those that it starts know it, with one bucket, `bucket`."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    moto = [str(uv), "tool", "run", "--from", MOTO, "moto_server"]
    if uv is None or subprocess.run([*moto, "--help"], capture_output=True, timeout=600).returncode:
        pytest.skip(f"{MOTO} cannot be had here: it takes uv, and a package index")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            [*moto, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, start_new_session=True
        )
        try:
            until(lambda: answers(url), "moto's server")
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_REGION", "us-east-1")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "any")
            file_system = S3FileSystem(endpoint_override=url, allow_bucket_creation=True)
            file_system.create_dir("bucket")
            yield file_system
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(60)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def test_a_run_in_a_bucket_goes_on_on_another_machine_with_what_was_copied(
    kumite: Any, tmp_path: Path, gate: Path, s3: S3FileSystem
) -> None:
    environment = {"tasks": TASKS, "gate": str(gate), "free": AT_ONCE}
    config = write_config(
        tmp_path / "config.yaml",
        environment={"id": "tests.helpers.slow_environment", "args": environment},
        policy={"kind": "oracle"},
        workers={"max": 1, "episodes_per_worker": AT_ONCE},
        upload_seconds=0.2,
    )

    def copied() -> int:
        with suppress(OSError):  # what is not there yet
            s3.open_input_file("bucket/run/manifest.json").close()
            selector = FileSelector("bucket/run/journal")
            files = [s3.open_input_file(file.path).read() for file in s3.get_file_info(selector)]
            return sum(len(content.splitlines()) for content in files)
        return 0

    run = kumite("run", config, "--out", "s3://bucket/run")
    until(lambda: copied() == AT_ONCE or run.process.poll() is not None, "the first episodes' copy")
    assert run.process.poll() is None, run.output
    run.kill()

    (gate / "open").touch()
    (gate / "end").touch()
    resumed = kumite("run", "--resume", "s3://bucket/run", cache=cache_in(tmp_path / "elsewhere"))
    assert resumed.wait() == 0, resumed.output
    shown = kumite("show", "s3://bucket/run", "--json", cache=cache_in(tmp_path / "a third"))
    assert shown.wait() == 0, shown.output
    assert json.loads(shown.output)["finished"] == TASKS
    episodes = arrow_dataset.dataset("s3://bucket/run/episodes").to_table()
    assert len(set(episodes["episode_id"].to_pylist())) == episodes.num_rows == TASKS
    assert s3.get_file_info(FileSelector("bucket/run/journal", allow_not_found=True)) == []


def test_a_bucket_that_is_not_there_is_one_error_that_names_it(kumite: Any, s3: S3FileSystem) -> None:
    refused = kumite("run", "--resume", "s3://no-such-bucket/run")
    assert refused.wait() == 1, refused.output
    assert "error: s3://no-such-bucket/run" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.timeout(1800)  # it takes half a minute where nothing else runs
@pytest.mark.parametrize("examples", [2, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_a_runs_life_in_a_bucket(s3: S3FileSystem, examples: int) -> None:
    """A few short lives: every look at a bucket is a request, so the thousands are played in memory.

    Nor are they made simpler where one fails, which would take hours: it is told as it was found.
    """
    lives = itertools.count()

    class LifeInBucket(RunLife):
        can_fail = False

        def new_uri(self) -> str:
            return f"s3://bucket/life-{next(lives)}/run"

    short = {**QUIET, "stateful_step_count": 6, "phases": [Phase.generate]}
    run_state_machine_as_test(LifeInBucket, settings=settings(max_examples=examples, database=None, **short))
