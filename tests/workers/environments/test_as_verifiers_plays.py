"""The same environments under verifiers' own runner and under Kumite come to the same."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import verifiers as vf
from openai import AsyncOpenAI
from verifiers.legacy.clients import OpenAIChatCompletionsClient

from tests.helpers import many_environments
from tests.helpers.many_environments import CALLS, CASES
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import record, rollout_worker, rows, spec
from workers.environments.messages import to_record, to_records
from workers.records import Message
from workers.settings import PolicyEndpoint

ID = "tests.helpers.many_environments"
TOOLS = [Reply(None, [("add", {"a": 1, "b": 2}), ("fail", {"a": 1})]), Reply("It is 4.")]
SCRIPTS: dict[str, list[Reply | Fault]] = {
    "xml_parser": [Reply("<answer>4</answer>")],
    "think_parser": [Reply("<think>well</think>4")],
    "math_rubric": [Reply("It is \\boxed{4}.")],
    "boxed_answer": [Reply("\\boxed{4}")],
    "judge": [Reply("It is 4."), Reply("yes")],
    "tools": [*TOOLS],
    "stateful_tools": [Reply(None, [("add", {"b": 2})]), Reply("4, or 42.")],
    "failed_of_a_tool": [Reply(None, [("fail", {"a": 1})])],
    "group_of_environments": [Reply("It is 4."), *TOOLS],
    "nested_groups_of_environments": [Reply("4"), Reply("It is 4."), *TOOLS],
}
USUAL: list[Reply | Fault] = [Reply("It is 4."), Reply("Still 4."), Reply("And 4.")]


@dataclass
class Played:
    """What a runner came to."""

    rewards: list[float | None] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def policy() -> Iterator[MockPolicy]:
    with MockPolicy() as policy:
        yield policy


def by_verifiers(name: str, policy: MockPolicy) -> Played:
    """Under `run_rollout`, or `run_group` where rollouts are scored together."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    env: Any = many_environments.load_environment(name, policy.base_url)
    for number, handler in kept.items():
        signal.signal(number, handler)
    client: Any = OpenAIChatCompletionsClient(AsyncOpenAI(base_url=policy.base_url, api_key="none"))
    sampling: Any = {"max_tokens": 64}

    async def play() -> list[Any]:
        outputs: list[Any] = []
        for row in env.get_eval_dataset():
            policy.script.extend(SCRIPTS.get(name, USUAL))
            if name.startswith("group_") and not isinstance(env, vf.EnvGroup):
                outputs += await env.run_group([row] * 3, client, "mock", sampling)
            else:
                outputs.append(await env.run_rollout(row, client, "mock", sampling))
        for each in all_of(env):
            await each._teardown()
        return outputs

    CALLS.clear()
    policy.requests.clear()  # from whose number calls have their ids
    outputs = asyncio.run(play())
    return Played(
        [output["reward"] for output in outputs],
        [dict(output["metrics"]) for output in outputs],
        [[*to_records(output["prompt"]), *map(as_said, output["completion"])] for output in outputs],
        [output["error"] is not None for output in outputs],
        list(CALLS),
    )


def as_said(message: Any) -> Message:
    """A message of verifiers' output, which has "" for the missing content of one that only calls tools."""
    record = to_record(message)
    if record.tool_calls and not record.content:
        record.content = None
    return record


def all_of(env: Any) -> list[Any]:
    return [env, *(each for member in getattr(env, "envs", []) for each in all_of(member))]


def by_kumite(name: str, policy: MockPolicy) -> Played:
    endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
    made = Played()
    with rollout_worker(ID, args={"name": name, "judge_url": policy.base_url}, policy=endpoint) as worker:
        CALLS.clear()
        policy.requests.clear()
        for row in rows(worker):
            policy.script.extend(SCRIPTS.get(name, USUAL))
            samples = 3 if worker._environment.needs_groups else 1
            for result in worker.play([spec(row) for _ in range(samples)]):
                episode = record(result)
                made.rewards.append(episode.reward)
                made.metrics.append(json.loads(episode.metrics))
                made.messages.append(episode.messages)
                made.failed.append(episode.error is not None)
    made.calls = list(CALLS)
    return made


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("name", CASES)
def test_an_environment_comes_to_what_it_does_under_verifiers_own_runner(
    name: str, policy: MockPolicy
) -> None:
    policy.script.clear()
    theirs = by_verifiers(name, policy)
    policy.script.clear()
    ours = by_kumite(name, policy)
    assert ours.calls == theirs.calls
    assert ours.failed == theirs.failed
    if any(theirs.failed):
        assert ours.rewards == [None] * len(ours.rewards), "an error is no score"
        return
    assert ours.rewards == pytest.approx(theirs.rewards)
    assert ours.metrics == theirs.metrics
    assert ours.messages == theirs.messages


def test_a_judge_is_asked_the_question(policy: MockPolicy) -> None:
    policy.script.clear()
    policy.requests.clear()
    assert by_kumite("judge", policy).rewards == [1.0]
    [asked] = [request for request in policy.requests if request["model"] == "judge"]
    assert "Question:\n```\n2+2?\n```" in asked["messages"][0]["content"]


def test_a_judge_that_is_down_is_waited_for_and_the_episode_is_not_played_anew(policy: MockPolicy) -> None:
    policy.script.clear()
    policy.requests.clear()
    SCRIPTS["judge_down"] = [Reply("It is 4."), *[Fault(status=503)] * 4, Reply("yes")]
    CASES["judge_down"] = CASES["judge"]
    try:
        made = by_kumite("judge_down", policy)
    finally:
        del CASES["judge_down"], SCRIPTS["judge_down"]
    assert (made.rewards, made.failed) == ([1.0], [False])
    assert [request["model"] for request in policy.requests].count("mock") == 1
