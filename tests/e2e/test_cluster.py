"""Runs on clusters that lose a node, or a replica of the policy, under load."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from cluster.shards import iterate_episodes
from tests.e2e.kumite import ROOT, banking, containers, journalled, until, write_config
from tests.helpers.ray_head import having, ray_head

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def rows(folder, *columns):
    tables = iterate_episodes(folder, ["episode_id", "status", "attempt", *columns])
    return [row for table in tables for row in table.to_pylist()]


def slow(gcs, *, tasks, seconds, last_seconds, **workers):
    arguments = {"tasks": tasks, "seconds": seconds, "last_seconds": last_seconds}
    return {
        "environment": {"id": "tests.helpers.slow_environment", "args": arguments},
        "policy": {"kind": "oracle"},
        "workers": {"episodes_per_worker": 4, "idle_seconds": 0.5, "cpus_per_worker": 1, **workers},
        "ray": {"address": gcs},
    }


@pytest.mark.docker
def test_a_node_that_is_lost_costs_its_episodes_another_attempt(kumite, tmp_path, slow_policy):
    out = tmp_path / "run"
    with ray_head(cpus=0) as head:
        nodes = [head.add_node(cpus=1, sandbox=1) for _ in range(3)]
        config = banking(slow_policy.base_url, samples=4, ray={"address": head.gcs})
        config["workers"] = {"min": 3, "max": 3, "episodes_per_worker": 4}
        run = kumite("run", write_config(tmp_path / "c.yaml", **config), "--out", out, env=head.environment)
        until(lambda: len(containers("run")) == 3 or run.process.poll() is not None, "three containers")
        until(lambda: journalled(out) >= 8 or run.process.poll() is not None, "the first episodes")
        assert run.process.poll() is None, run.output
        head.lose(nodes[1])
        until(lambda: len(containers("run")) == 2, "the end of its container", patience=10)
        assert run.wait() == 0, run.output
        found = rows(out, "node_id")
    assert len(found) == len({row["episode_id"] for row in found}) == 64
    assert {row["status"] for row in found} == {"finished"}
    assert len({row["node_id"] for row in found}) == 3
    assert {row["attempt"] for row in found} == {1, 2}
    assert containers("run") == []


def test_a_replica_of_the_policy_that_is_killed_costs_a_wait_and_no_episode(kumite, tmp_path):
    out = tmp_path / "run"
    with ray_head(cpus=2) as head:
        [port] = head.free_ports(1)
        serving = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "helpers" / "serve_policy.py"), head.gcs, str(port)],
            env=head.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert serving.stdout.readline() == "serving\n"
        config = slow(head.gcs, tasks=200, seconds=0.0, last_seconds=0.0, min=1, max=1)
        config["policy"] = {
            "kind": "endpoint",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "model": "mock",
        }
        config["workers"]["episodes_per_worker"] = 16
        run = kumite("run", write_config(tmp_path / "c.yaml", **config), "--out", out, env=head.environment)
        until(lambda: journalled(out) >= 32 or run.process.poll() is not None, "the first episodes")
        replicas = [pid for pid in having(head.folder / "token") if "Replica:" in name_of(pid)]
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        assert run.wait() == 0, run.output
        serving.kill()
        serving.wait(30)
    found = rows(out)
    assert len(found) == len({row["episode_id"] for row in found}) == 200
    assert {(row["status"], row["attempt"]) for row in found} == {("finished", 1)}


def name_of(pid):
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
