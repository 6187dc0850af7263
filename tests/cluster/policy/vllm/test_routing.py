"""Two replicas behind the policy's router: who gets which prompt."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.drivers import ROOT, driver_environment

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.group("own ray")]


def test_turns_and_samples_stay_where_their_prefix_is_and_both_replicas_work(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "routing.py"],
        env=driver_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    groups: list[list[list[str]]] = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("[["))
    )
    episodes = [episode for group in groups for episode in group]
    turns = [pair for episode in episodes for pair in itertools.pairwise(episode)]
    # Beside other work on the machine a replica falls behind, and the router looks at loads before prefixes.
    # By chance a half would stay; 0.6 of 288 turns is more than three standard deviations above that.
    assert sum(a == b for a, b in turns) >= 0.6 * len(turns), "a turn goes where the turn before went"
    homes = [Counter(replica for episode in group for replica in episode) for group in groups]
    together = sum(max(home.values()) for home in homes)
    every = Counter(replica for episode in episodes for replica in episode)
    assert together >= 0.65 * every.total(), "a group's samples go together"
    assert len(every) == 2 and min(every.values()) >= 0.25 * every.total(), "the system prompt binds none"
