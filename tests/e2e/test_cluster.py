"""Runs on clusters of several nodes: one that grows and shrinks, and ones that lose something under load."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from cluster.dataset.shards import iterate_episodes
from tests.e2e.kumite import ROOT, banking, journalled, until, write_config
from tests.helpers.ray_head import command_of, free_ports, having, ray_head
from tests.helpers.run_containers import containers

LABELS = ("run", "status", "stage")

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def rows(folder, *columns):
    tables = iterate_episodes(folder, ["episode_id", "status", "attempt", *columns])
    return [row for table in tables for row in table.to_pylist()]


def slow(gcs, *, tasks, gate=None, **workers):
    return {
        "environment": {
            "id": "tests.helpers.slow_environment",
            "args": {"tasks": tasks, "gate": gate and str(gate)},
        },
        "policy": {"kind": "oracle"},
        "workers": {"episodes_per_worker": 4, "idle_seconds": 0.5, "cpus_per_worker": 1, **workers},
        "ray": {"address": gcs},
    }


def test_nodes_come_under_load_and_go_while_the_run_still_lasts(kumite, tmp_path, out, gate):
    """Ray's autoscaler, with nodes that are processes here: one for each worker."""
    node_types = {"spot": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3}}
    with ray_head(cpus=0, node_types=node_types) as head:
        config = slow(head.gcs, tasks=40, gate=gate, min=0, max=2)
        config["observe"] = {"every": 1.0}
        until(lambda: head.raylets() == 1, "the head")
        run = kumite("run", write_config(tmp_path / "c.yaml", **config), "--out", out, env=head.environment)

        def comes(condition, what):
            until(lambda: condition() or run.process.poll() is not None, what)
            assert run.process.poll() is None, run.output

        comes(lambda: head.raylets() == 3, "two more nodes")
        comes(
            lambda: len({waiting.name.partition("-")[2] for waiting in gate.iterdir()}) == 2, "workers there"
        )
        (gate / "open").touch()
        comes(lambda: journalled(out) == 39, "all but the last episode")
        comes(lambda: head.raylets() == 2, "a node less")
        expected = {
            f"ray_kumite_episodes_total{{run={out.name},status=finished,stage=}} 39.0",
            f"ray_kumite_stage_seconds_count{{run={out.name},stage=setup}} 39.0",
            f"ray_kumite_in_flight{{run={out.name}}} 1.0",
        }
        comes(lambda: expected <= scraped(head), "metrics")
        (gate / "end").touch()
        assert run.wait() == 0, run.output
        until(lambda: head.raylets() == 1, "the end of all nodes but the head")
    found = rows(out, "node_id")
    assert len(found) == len({row["episode_id"] for row in found}) == 40
    assert {row["status"] for row in found} == {"finished"}
    assert len({row["node_id"] for row in found}) == 2


@pytest.fixture
def nodes(head):
    """Three nodes with Docker, of which the head has none."""
    made = [head.add_node(cpus=1, sandbox=1) for _ in range(3)]
    yield made
    for node in made:
        if node.poll() is None:
            head.lose(node)


@pytest.mark.docker
def test_a_node_that_is_lost_costs_its_episodes_another_attempt(kumite, tmp_path, out, policy, head, nodes):
    policy.lets_through = 48
    config = banking(policy.base_url, samples=2, ray={"address": head.gcs})
    config["workers"] = {"min": 3, "max": 3, "episodes_per_worker": 4}
    run = kumite("run", write_config(tmp_path / "c.yaml", **config), "--out", out, env=head.environment)
    until(lambda: len(containers(out.name)) == 3 or run.process.poll() is not None, "three containers")
    until(lambda: policy.in_flight == 12 or run.process.poll() is not None, "four episodes on each")
    assert run.process.poll() is None, run.output
    head.lose(nodes[1])
    until(lambda: len(containers(out.name)) == 2, "the end of its container")
    policy.lets_through = None
    assert run.wait() == 0, run.output
    found = rows(out, "node_id")
    assert len(found) == len({row["episode_id"] for row in found}) == 32
    assert {row["status"] for row in found} == {"finished"}
    assert {row["attempt"] for row in found} == {1, 2}
    until(lambda: containers(out.name) == [], "the end of all containers")


def test_a_replica_of_the_policy_that_is_killed_costs_a_wait_and_no_episode(kumite, tmp_path, out, head):
    [port] = free_ports(1)
    serving = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "helpers" / "serve_policy.py"), head.gcs, str(port)],
        env=head.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "serving\n" in iter(serving.stdout.readline, "")  # Ray tells there of lost nodes
        config = slow(head.gcs, tasks=200, min=1, max=1, episodes_per_worker=16)
        config["policy"] = {"kind": "endpoint", "base_url": f"http://127.0.0.1:{port}/v1", "model": "mock"}
        run = kumite("run", write_config(tmp_path / "c.yaml", **config), "--out", out, env=head.environment)
        until(lambda: journalled(out) >= 32 or run.process.poll() is not None, "the first episodes")
        replicas = [pid for pid in having(head.folder / "token") if "Replica:" in command_of(pid)]
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        assert run.wait() == 0, run.output
    finally:
        serving.communicate(timeout=60)
    found = rows(out)
    assert len(found) == len({row["episode_id"] for row in found}) == 200
    assert {(row["status"], row["attempt"]) for row in found} == {("finished", 1)}


def scraped(head):
    """What Prometheus would get of us, without the labels that Ray adds."""
    targets = json.loads((head.folder / "prom_metrics_service_discovery.json").read_text())[0]["targets"]
    found = set()
    for target in targets:
        try:
            body = urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode()
        except OSError:  # a node that has just gone
            continue
        for name, text, value in re.findall(r"^(ray_kumite_\w+){(.*)} (\S+)$", body, re.MULTILINE):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
            ours = ",".join(f"{label}={labels[label]}" for label in LABELS if label in labels)
            found.add(f"{name}{{{ours}}} {value}")
    return found
