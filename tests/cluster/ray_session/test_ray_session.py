import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import RayUnavailable
from cluster.ray_session import kept as kept_ray
from cluster.ray_session import session as ray_session
from tests.e2e.kumite import until
from tests.helpers.drivers import ROOT, cluster_processes, drive, driver_environment, processes

pytestmark = [pytest.mark.ray, pytest.mark.group("own ray")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    yield tmp_path
    kept_ray.stop_kept()


def test_a_local_cluster_ends_with_its_driver_and_listens_on_loopback_only(cache: Path):
    told = drive(cache, "ray", "{}", "")
    assert told["local"] and not told["kept"]
    assert told["nodes"] == ["127.0.0.1"]
    assert told["address"].startswith("127.0.0.1:")
    assert told["imports"] == str(ROOT / "workers"), "an actor of another folder's driver imports our code"
    until(lambda: not any(told["session"] in process.command for process in processes()), "its end", 90)


def test_a_kept_cluster_is_found_by_the_next_driver_and_ends_without_a_trace(cache: Path):
    first = drive(cache, "ray", "{}", "keep", "resident")
    second = drive(cache, "ray", "{}", "")
    assert first["kept"] and second["kept"]
    assert second["address"] == first["address"]
    assert second["found"] == ["resident"]
    assert second["imports"] == str(ROOT / "workers")
    kept = kept_ray.find_kept()
    assert kept is not None and kept.address == first["address"]
    commands = [process.command for process in cluster_processes(cache, kept.pid)]
    [holder] = [command for command in commands if "bin/python" in command.split()[0]]
    assert "cluster.ray_session.holder" in holder, "it has what nobody uses: a dashboard's server, a monitor"
    assert kept_ray.stop_kept()
    assert not cluster_processes(cache, kept.pid)
    assert kept_ray.find_kept() is None
    assert not kept_ray.stop_kept()


def test_a_cluster_in_which_there_is_nothing_to_keep_is_not_kept(cache: Path):
    assert drive(cache, "ray", "{}", "keep")["kept"]
    assert kept_ray.find_kept() is None


def test_a_kept_cluster_whose_holder_was_killed_is_replaced(cache: Path):
    first = drive(cache, "ray", "{}", "keep", "resident")
    kept = kept_ray.find_kept()
    assert kept is not None
    os.kill(kept.pid, signal.SIGKILL)
    until(lambda: not working(cache, kept.pid), "the end of the cluster without its holder", 90)
    second = drive(cache, "ray", "{}", "keep", "resident")
    assert second["address"] != first["address"]


def test_a_kept_cluster_that_is_too_small_for_a_run_says_so(cache: Path):
    drive(cache, "ray", '{"num_cpus": 1}', "keep", "resident", "1")
    told = drive(cache, "ray", "{}", "")
    assert told["error"] == "RayUnavailable"
    assert "has 1 logical CPUs, and this run asks for 2" in told["said"]


def test_fewer_cpus_than_the_run_needs_are_refused(cache: Path):
    told = drive(cache, "ray", '{"num_cpus": 1}', "")
    assert told["error"] == "RayUnavailable"
    assert "ray.num_cpus is 1" in told["said"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "nothing answers there"),
        ("no-port", "it should be `auto`, or host:port"),
        ("local", "leave it out"),
        ("ray://127.0.0.1:10001", "ray job submit"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(cache: Path, address: str, said: str):
    # Ray by itself would try for a quarter of an hour.
    told = drive(cache, "ray", json.dumps({"address": address}), "")
    assert told["error"] == "RayUnavailable"
    assert f"ray.address is '{address}'" in told["said"] and said in told["said"]


def test_the_cluster_a_driver_was_submitted_to_comes_before_a_local_one(cache: Path):
    told = drive(cache, "ray", "{}", "", RAY_ADDRESS="127.0.0.1:9")
    assert told["error"] == "RayUnavailable"
    assert "RAY_ADDRESS is '127.0.0.1:9'" in told["said"]


@pytest.fixture
def foreign_cluster(tmp_path: Path) -> Iterator[str]:
    """A cluster that someone else started, here with token authentication, as Ray has it by default."""
    script = (
        "import ray, sys; ray.init(address='local', num_cpus=4, resources={'sandbox': 9}, namespace='other');"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    # Ray's dashboard leaves sockets, whose paths must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short:
        holder = subprocess.Popen(
            [sys.executable, "-c", script],
            env=driver_environment(tmp_path) | {"PYTHONPATH": "", "TMPDIR": short},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert holder.stdin and holder.stdout
        yield holder.stdout.readline().strip()
        holder.stdin.close()
        holder.wait(90)


def test_an_existing_cluster_is_joined_with_our_code_and_left_as_it_was(cache: Path, foreign_cluster: str):
    config = json.dumps({"address": foreign_cluster})
    told = drive(cache, "ray", config, "", RAY_AUTH_MODE="token")
    assert not told["local"]
    assert told["imports"] != str(ROOT / "workers"), "it is uploaded: the nodes may not have our folder"
    refused = drive(cache, "ray", config, "", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="wrong" * 10)
    assert refused["error"] == "RayUnavailable"
    assert "the cluster asks for its token" in refused["said"]


def working(cache: Path, session: int) -> list[str]:
    """What works in a cluster; Ray's agents, which are told of its end by nobody, take a minute more."""
    commands = [process.command for process in cluster_processes(cache, session)]
    return [command for command in commands if "Agent" not in command]


def test_a_cluster_that_comes_up_too_slowly_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def be_late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does, after 30 s

    monkeypatch.setattr(ray_session, "_init_ray", be_late)
    with pytest.raises(RayUnavailable, match="a local Ray cluster did not start: The current node timed out"):
        ray_session.start_local({})
