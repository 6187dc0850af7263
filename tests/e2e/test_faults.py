"""Whole runs under which something is killed."""

import os
import signal

import psutil
import pytest

from cluster.dataset.shards import iterate_episodes
from tests.e2e.kumite import (
    banking,
    journalled,
    processes_of,
    until,
    write_config,
)
from tests.helpers.leftovers import shims_of
from tests.helpers.run_containers import containers, remove_container, tool_host

pytestmark = [pytest.mark.ray, pytest.mark.docker, pytest.mark.faults, pytest.mark.slow]
pytestmark += [pytest.mark.group("own ray")]


def rows(folder, *more):
    columns = ["episode_id", "status", *more]
    return [row for table in iterate_episodes(folder, columns) for row in table.to_pylist()]


def workers(run):
    return [
        p for p in psutil.Process(run.process.pid).children(recursive=True) if "RolloutWorker" in p.name()
    ]


def nothing_is_left(out):
    """The engine takes its time to remove what has ended."""
    until(lambda: containers(out.name) == [], "the end of all containers")


@pytest.fixture
def started(kumite, tmp_path, out, policy):
    """A run of 32 episodes of 3 turns that has some of them behind it, and others waiting for the policy."""
    policy.lets_through = 24
    config = write_config(tmp_path / "config.yaml", **banking(policy.base_url, samples=2))
    run = kumite("run", config, "--out", out)
    until(
        lambda: (journalled(out) and len(containers(out.name)) == 2) or run.process.poll() is not None,
        "the first episode, and both workers",
    )
    assert run.process.poll() is None, run.output
    return run, out, config


def test_a_worker_and_sandboxes_that_are_lost_cost_an_attempt_and_the_run_completes(started, policy):
    """A worker is killed; then, of the two sandboxes that there are, one is taken away by the engine, and the
    tool host of the other is killed. Nothing of them stays.
    """
    run, out, _ = started
    until(lambda: len(policy.requests) == 24 + 8, "episodes that all wait for the policy")
    first = set(containers(out.name))
    [forks] = [p for p in psutil.Process(run.process.pid).children() if p.name() == "kumite-forks"]
    assert len(forks.children()) == 2, "each worker's process is a fork of what the driver has imported"
    [victim, _] = workers(run)
    victim.send_signal(signal.SIGKILL)
    until(lambda: len(first & set(containers(out.name))) == 1, "the end of its container")
    until(lambda: len(containers(out.name)) == 2 or run.process.poll() is not None, "another worker's")
    until(lambda: len(forks.children()) == 2, "the end of the lost worker's process, beside the new one's")
    assert run.process.poll() is None, run.output
    taken, killed = containers(out.name)
    lost = {*first, taken, killed}
    remove_container(taken)
    os.kill(tool_host(killed), signal.SIGKILL)
    policy.lets_through = None
    assert run.wait() == 0, run.output
    found = rows(out, "attempt", "sandbox_id", "reward")
    assert len(found) == len({row["episode_id"] for row in found}) == 32
    assert {row["status"] for row in found} == {"finished"}
    assert all(row["reward"] is not None for row in found)
    again = [row for row in found if row["attempt"] > 1]
    assert 0 < len(again) <= 4 + 8  # what a worker had in flight, and then two
    assert not {row["sandbox_id"] for row in again} & {container[:12] for container in lost}
    nothing_is_left(out)
    until(lambda: not shims_of({container[:12] for container in lost}), "the end of what ran them")
    until(lambda: not processes_of(run), "the end of its processes")


def test_a_run_that_was_stopped_and_then_killed_is_taken_up_each_time(started, kumite, policy):
    """Ctrl-C commits what had ended, and SIGKILL of the driver loses nothing that was journalled."""
    run, out, config = started
    os.kill(run.process.pid, signal.SIGINT)
    until(lambda: "SIGINT: no new episodes" in run.output, "word of it")
    policy.lets_through = None
    assert run.wait() == 130, run.output
    assert "kumite run --resume" in run.output
    nothing_is_left(out)
    ended = {row["episode_id"] for row in rows(out)}
    assert 0 < len(ended) < 32
    assert not list((out / "journal").glob("*.jsonl"))

    policy.lets_through = len(policy.requests) + 24
    killed = kumite("run", "--resume", out)
    until(lambda: journalled(out) > len(ended) or killed.process.poll() is not None, "another episode")
    assert killed.process.poll() is None, killed.output
    killed.kill()
    policy.lets_through = None
    nothing_is_left(out)
    recorded = {row["episode_id"] for row in rows(out)}
    assert ended < recorded
    assert len(recorded) == journalled(out)

    resumed = kumite("run", config, "--resume", out)
    assert resumed.wait() == 0, resumed.output
    found = rows(out)
    assert len(found) == len({row["episode_id"] for row in found}) == 32
    assert recorded < {row["episode_id"] for row in found}
