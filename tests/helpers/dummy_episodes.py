"""Episodes in the dummy environment, and what a failed one says."""

from typing import Any

from tests.helpers.dummy_environment import row
from tests.helpers.rollouts import record, spec, usual_pool
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker

ENVIRONMENT = "tests.helpers.dummy_environment"


def turn(*calls: tuple[str, dict[str, Any]], content: str = "") -> dict[str, Any]:
    return {
        "content": content,
        "tool_calls": [{"name": name, "arguments": arguments} for name, arguments in calls],
    }


def put(key: str, value: Any) -> tuple[str, dict[str, Any]]:
    return "put", {"key": key, "value": value}


GOOD = [turn(put("score", 0.5)), turn(put("b", 1), put("c", 2)), turn(content="done")]


def task(*turns: dict[str, Any], **info: Any) -> dict[str, Any]:
    """A row whose oracle takes these turns, or two good ones and a last word."""
    opening = {"script": list(turns) or GOOD, **info.pop("opening", {})}
    return row(opening=opening, **info)


def one(worker: RolloutWorker, row: dict[str, Any], **spec_fields: Any) -> EpisodeResult:
    (result,) = worker.play([spec(row, **spec_fields)])
    return result


def assert_failed(result: EpisodeResult, stage: str, kind: str, message: str) -> None:
    episode = record(result)
    assert episode.error is not None
    assert (result.status, episode.status) == ("failed", "failed")
    assert (episode.error.stage, episode.error.kind) == (stage, kind), episode.error
    assert (result.error_stage, result.failure) == (stage, kind)
    assert message in f"{episode.error.type}: {episode.error.message}"
    assert result.reward is None and episode.reward is None
    assert result.metrics == {} and episode.metrics == "{}"
    assert episode.messages[0].content == "go"


def sessions(worker: RolloutWorker) -> set[str]:
    pool = usual_pool(worker)
    assert pool._current is not None
    return pool._current.sessions
