"""Which version of the weights acts, turn by turn, when the policy is updated under an episode."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import record, rollout_worker, rows, spec
from workers.environments.tracing import EpisodeTrace, Turn
from workers.errors import StaleEpisode
from workers.policy.endpoint import check_version
from workers.policy.versions import parse_version
from workers.records import EpisodeRecord
from workers.rollout_worker import RolloutWorker
from workers.settings import PolicyEndpoint

EXAMPLES = Path(__file__).parents[3] / "examples"
CALL = Reply(content=None, tool_calls=[("add", {"a": 1, "b": 2})])


class UpdatedPolicy(MockPolicy):
    """Has the worker hear of version 2 while it samples its first turn."""

    worker: RolloutWorker

    def _answer(self, reply: Reply, body: dict[str, Any]) -> Any:
        self.worker.set_version(2)
        return super()._answer(reply, body)


def play(**settings: Any) -> tuple[EpisodeRecord, list[str]]:
    """A two-turn episode that begins on version 1; the record, and the models that were asked."""
    with UpdatedPolicy(CALL) as policy:
        endpoint = PolicyEndpoint(
            kind="openai", model="mock", base_url=policy.base_url, version=1, token_ids=True, **settings
        )
        with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES) as worker:
            policy.worker = worker
            task = spec(rows(worker)[0]).model_copy(update={"policy_version": 1})
            episode = record(worker.play([task])[0])
    return episode, [request["model"] for request in policy.requests]


def versions(episode: EpisodeRecord) -> list[int | None]:
    return [step.policy_version for step in episode.steps]


def test_an_episode_finishes_on_the_version_it_began_with():
    episode, asked = play()
    assert asked == ["mock:v1", "mock:v1"]
    assert versions(episode) == [1, 1]
    assert (episode.policy_version, episode.last_policy_version) == (1, 1)


def test_an_episode_that_moves_says_that_it_spans_versions():
    episode, asked = play(moves=True)
    assert asked == ["mock:v1", "mock:v2"]
    assert versions(episode) == [1, 2]
    assert (episode.policy_version, episode.last_policy_version) == (1, 2)


def test_an_episode_that_a_newer_version_has_answered_does_not_go_back():
    with MockPolicy(CALL) as policy:
        policy.model = "mock:v2"  # a replica that has the next weights before they are in use everywhere
        endpoint = PolicyEndpoint(
            kind="openai", model="mock", base_url=policy.base_url, version=1, moves=True
        )
        with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES) as worker:
            episode = record(worker.play([spec(rows(worker)[0])])[0])
    assert [request["model"] for request in policy.requests] == ["mock:v1", "mock:v2"]
    assert versions(episode) == [2, 2]


def play_reloaded(**settings: Any) -> EpisodeRecord:
    """A two-turn episode whose second turn is answered by other full weights than the first."""

    class ReloadedPolicy(MockPolicy):
        def _answer(self, reply: Reply, body: dict[str, Any]) -> Any:
            self.model = f"mock:v{len(self.requests)}"
            return super()._answer(reply, body)

    with ReloadedPolicy(CALL) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, **settings)
        with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES) as worker:
            return record(worker.play([spec(rows(worker)[0])])[0])


def test_where_full_weights_change_beneath_an_episode_each_step_has_the_version_that_answered():
    episode = play_reloaded(version=1, moves=True)
    assert versions(episode) == [1, 2]
    assert (episode.policy_version, episode.last_policy_version) == (1, 2)


def test_an_episode_that_is_to_finish_on_weights_that_have_gone_is_to_be_played_again():
    episode = play_reloaded(version=1)
    assert episode.error is not None
    assert (episode.error.type, episode.error.kind, episode.error.stage) == (
        "StaleEpisode",
        "version",
        "policy",
    )
    assert "it began on version 1, and version 2 has taken its place" in episode.error.message


@pytest.mark.parametrize(
    ("version", "error"), [(1, ("StaleEpisode", "version")), (None, ("PolicyError", "policy"))]
)
def test_an_episode_whose_version_has_gone_is_to_be_played_again(version: int | None, error: tuple[str, str]):
    with MockPolicy(CALL, Fault(status=410, message="version 1 has gone")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, version=version)
        with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES) as worker:
            episode = record(worker.play([spec(rows(worker)[0])])[0])
    assert episode.error is not None
    assert (episode.error.type, episode.error.kind) == error
    assert "version 1 has gone" in episode.error.message


def test_of_an_endpoint_without_versions_a_name_tells_none():
    assert versions(play_reloaded()) == [None, None]


@pytest.mark.parametrize("moves", [True, False])
def test_an_episode_too_far_behind_fails_for_its_version(moves: bool):
    episode, _ = play(moves=moves, max_version_lag=0)
    assert (episode.status, episode.reward) == ("failed", None)
    assert episode.error is not None
    assert (episode.error.type, episode.error.kind) == ("StaleEpisode", "version")
    assert (
        "sampled by version 1, and the policy is at 2; policy.max_version_lag is 0" in episode.error.message
    )


def test_an_episode_within_the_lag_is_kept():
    assert play(max_version_lag=1)[0].status == "finished"


def test_the_base_model_is_asked_for_by_its_own_name():
    with MockPolicy() as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, version=0)
        with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES) as worker:
            assert versions(record(worker.play([spec(rows(worker)[0])])[0])) == [0]
    assert policy.requests[0]["model"] == "mock"


@pytest.mark.parametrize(
    ("named", "version"),
    [
        ("org/m:v2", 2),
        ("org/m", None),
        ("m:v2", None),
        ("org/m:v2:v3", None),
        ("org/m:latest", None),
        (None, None),
    ],
)
def test_a_name_names_a_version_of_one_model_only(named: str | None, version: int | None):
    assert parse_version(named, "org/m") == version


def test_a_models_own_name_may_look_like_a_version():
    assert parse_version("qwen:v2", "qwen:v2") is None
    assert parse_version("qwen:v2:v7", "qwen:v2") == 7


def test_turns_of_other_agents_policies_have_no_part_in_an_episodes_versions() -> None:
    trace = EpisodeTrace(policy_version=0)
    trace.turns += [Turn(), Turn(policy_version=0), Turn()]
    check_version(trace)
    assert trace.turn_versions() == [0]
    trace.policy_version = 1
    with pytest.raises(StaleEpisode, match="it began on version 0, and version 1 has taken its place"):
        check_version(trace)
