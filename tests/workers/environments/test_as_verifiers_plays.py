"""The same environments under verifiers' own runner and under Kumite come to the same."""

import asyncio
import json
import re
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
    # Ranked by their place: what they are answered must not tell them apart.
    "group_function_of_numpy": [Reply("It is 4.")] * 3,
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
    at_once: int = 1
    """Samples of a task that are played together. Which of them the policy answers first is chance."""

    @property
    def hooks(self) -> list[str]:
        """The calls without the figures of single samples."""
        return [re.sub(r" -?[\d.]+(e-?\d+)?$", "", call) for call in self.calls]

    @property
    def samples(self) -> list[tuple[list[Message], dict[str, float], bool, float | None]]:
        """What each sample came to; those that are played together by what they were answered."""
        found = list(zip(self.messages, self.metrics, self.failed, self.rewards, strict=True))
        groups = [found[first : first + self.at_once] for first in range(0, len(found), self.at_once)]
        return [sample for group in groups for sample in sorted(group, key=repr)]


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

    at_once = 3 if name.startswith("group_") and not isinstance(env, vf.EnvGroup) else 1

    async def play() -> list[Any]:
        outputs: list[Any] = []
        data: Any = env.get_eval_dataset()
        for row in data:
            policy.script.extend(SCRIPTS.get(name, USUAL))
            if at_once > 1:
                outputs += await env.run_group([row] * at_once, client, "mock", sampling)
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
        at_once,
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
            made.at_once = 3 if worker._environment.needs_groups else 1
            for result in worker.play([spec(row) for _ in range(made.at_once)]):
                episode = record(result)
                made.rewards.append(episode.reward)
                made.metrics.append(json.loads(episode.metrics))
                made.messages.append(episode.messages)
                made.failed.append(episode.error is not None)
    made.calls = list(CALLS)
    return made


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_environment_comes_to_what_it_does_under_verifiers_own_runner(
    name: str, policy: MockPolicy
) -> None:
    policy.script.clear()
    theirs = by_verifiers(name, policy)
    policy.script.clear()
    ours = by_kumite(name, policy)
    assert ours.at_once == theirs.at_once
    assert ours.hooks == theirs.hooks
    if ours.at_once == 1:
        assert ours.calls == theirs.calls
    else:
        assert sorted(ours.calls) == sorted(theirs.calls)
    assert len(ours.samples) == len(theirs.samples)
    if any(theirs.failed):
        assert ours.failed == theirs.failed
        assert ours.rewards == [None] * len(ours.rewards), "an error is no score"
        return
    for sample, other in zip(ours.samples, theirs.samples, strict=True):
        assert sample[:3] == other[:3]
        assert sample[3] == pytest.approx(other[3])


def test_a_judge_is_asked_the_question(policy: MockPolicy) -> None:
    policy.script.clear()
    policy.requests.clear()
    assert by_kumite("judge", policy).rewards == [1.0]
    [asked] = [request for request in policy.requests if request["model"] == "judge"]
    assert "Question:\n```\n2+2?\n```" in asked["messages"][0]["content"]


@pytest.mark.slow
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
