"""What an evaluation told beside its metrics: the column `details` of the episodes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.init import write_example
from cluster.dataset.schemas import EPISODES
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from workers.records import EpisodeRecord
from workers.settings import PolicyEndpoint

WRONG = "def double(number):\n    return number + number if number else [][0]\n"
ON_THIS_MACHINE = {"recycle": "fork", "unsafe": True}


@pytest.fixture
def args(tmp_path: Path) -> dict[str, Any]:
    """Of an environment with one task of the user's own."""
    write_example("task", "twice", tmp_path)
    return {"folder": str(tmp_path), "tasks": ["twice"]}


def details_of(episode: EpisodeRecord) -> Any:
    return json.loads(episode.details or "null")


def test_details_name_the_hidden_tests_that_failed_with_line_and_reason(args: dict[str, Any]) -> None:
    written = ("write_file", {"path": "double.py", "content": WRONG})
    with MockPolicy(Reply(None, [written]), default=Reply("double.py has it.")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=ON_THIS_MACHINE) as worker:
            [result] = played(worker, spec(rows(worker)[0]))
    assert (result.status, result.reward) == ("finished", 0.0)
    details = details_of(record(result))
    assert details["tests"] == 2 and list(details["failures"]) == ["test_numbers"]
    assert details["failures"]["test_numbers"].startswith("line 6: SubmissionFailed: raised IndexError")


def test_details_of_a_solution_name_no_failure(args: dict[str, Any]) -> None:
    with rollout_worker("shell", args=args, sandbox=ON_THIS_MACHINE) as worker:
        [result] = played(worker, spec(rows(worker)[0]))
    assert (result.reward, details_of(record(result))) == (1.0, {"tests": 2, "failures": {}})


def test_an_environment_that_tells_none_has_none() -> None:
    with rollout_worker("tests.helpers.slow_environment", args={"tasks": 1}) as worker:
        [result] = played(worker, spec(rows(worker)[0]))
    assert result.status == "finished" and record(result).details is None


def test_details_are_a_column_of_text() -> None:
    assert str(EPISODES.field("details").type) == "string" and EPISODES.field("details").nullable
