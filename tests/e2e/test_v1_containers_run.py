"""A whole run of a taskset of another verifiers, whose harness works in containers."""

import json

import pytest
from datasets import load_dataset

from tests.e2e.kumite import ROOT, write_config
from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Reply
from tests.helpers.run_containers import containers
from tests.helpers.v1_containers import bash

pytestmark = [pytest.mark.ray, pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def cache(kept_ray):
    return kept_ray


def solve(body):
    """Looks for the word, writes it down, and ends."""
    replies = [
        bash("cat notes/*"),
        bash("grep -oh 'is [a-z]*\\.' notes/* | grep -v here | tr -d '.' | cut -c4- > answer.txt"),
    ]
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    return replies[turn] if turn < 2 else Reply(content="Done.")


def test_the_example_is_played_by_bash_of_0_4_0_in_containers_and_leaves_none(kumite, tmp_path, out, cache):
    with ConversationPolicy(solve) as policy:
        config = write_config(
            tmp_path / "config.yaml",
            environment={
                "id": str(ROOT / "examples" / "word_hunt.py"),
                "requirements": ["verifiers==0.4.0"],
                "args": {
                    "taskset": {"tasks": 2},
                    "agent": {"harness": {"id": "bash", "edit": False}, "max_turns": 4},
                },
            },
            policy={"kind": "endpoint", "base_url": policy.base_url, "model": "mock"},
            workers={"max": 1, "episodes_per_worker": 2},
        )
        run = kumite("run", config, "--out", out)
        assert run.wait() == 0, run.output
    files = str(out / "episodes" / "*.parquet")
    episodes = load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache / "hf"))
    assert episodes["reward"] == [1.0, 1.0]
    assert {json.loads(metrics)["commands"] for metrics in episodes["metrics"]} == {2.0}
    assert containers(out.name) == []
