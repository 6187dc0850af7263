"""Environments by the book, in a file of a user's own: nothing of Kumite in them."""

import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import ORACLE, record, rollout_worker, rows, spec
from workers.environments.classic.environment import ClassicEnvironment
from workers.errors import EnvironmentLoadError
from workers.records import EpisodeRecord, EpisodeResult
from workers.rollout_worker import RolloutWorker
from workers.settings import EnvironmentSettings, PolicyEndpoint, SamplingSettings, Split

BY_THE_BOOK = '''
import verifiers as vf
from datasets import Dataset


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


class SumEnv(vf.ToolEnv):
    async def setup_state(self, state, **kwargs):
        state["sums"] = []
        return await super().setup_state(state, **kwargs)

    async def env_response(self, messages, state, **kwargs):
        answers = await super().env_response(messages, state, **kwargs)
        state["sums"] += [answer.content for answer in answers]
        return answers


def computed(state, answer):
    return 1.0 if answer in state["sums"] else 0.0


async def named(completion, answer, **kwargs):
    return float(answer in str(completion[-1].content))


def load_environment(weight=0.5, max_turns=4, sampling_args=None, train=(), timeout_seconds=None):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
    train = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in train]
    return SumEnv(
        dataset=Dataset.from_list(train) if train else None,
        tools=[add],
        max_turns=max_turns,
        eval_dataset=Dataset.from_list(rows),
        rubric=vf.Rubric(funcs=[computed, named], weights=[weight, 1 - weight]),
        sampling_args=sampling_args,
        timeout_seconds=timeout_seconds,
    )
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environments")
    (folder / "sums.py").write_text(BY_THE_BOOK)
    (folder / "json.py").write_text(BY_THE_BOOK)
    (folder / "nothing.py").write_text("LOADED = True\n")
    (folder / "number.py").write_text("def load_environment():\n    return 5\n")
    (folder / "needy.py").write_text("import a_package_that_is_not_there\n")
    (folder / "picky.py").write_text("def load_environment(n=1):\n    raise ValueError('n must be even')\n")
    return folder


@pytest.fixture(scope="module")
def policy() -> Iterator[MockPolicy]:
    with MockPolicy() as policy:
        yield policy


@pytest.fixture(scope="module")
def worker(folder: Path, policy: MockPolicy) -> Iterator[RolloutWorker]:
    endpoint = PolicyEndpoint(
        kind="openai", model="mock", base_url=policy.base_url, token_ids=True, version=7, request_timeout=30
    )
    args = {"sampling_args": {"top_p": 0.25, "max_tokens": 77, "extra_body": {"min_p": 0.1}}}
    with rollout_worker("sums.py", args=args, policy=endpoint, search_path=folder, seed=3) as worker:
        yield worker


def played(worker: RolloutWorker, policy: MockPolicy, *script: Reply | Fault) -> EpisodeRecord:
    policy.requests.clear()
    policy.script.extend(script)
    (result,) = worker.play([spec(rows(worker)[0])])
    assert not policy.script
    return record(result)


def loaded(name: str, folder: Path, **args: Any) -> ClassicEnvironment:
    return ClassicEnvironment(EnvironmentSettings(id=name, args=args), folder)


def test_environment_by_the_book_is_played_by_the_book(worker: RolloutWorker, policy: MockPolicy) -> None:
    episode = played(worker, policy, Reply(None, [("add", {"a": 0, "b": 1})]), Reply("It is 1."))
    assert episode.error is None
    assert (episode.status, episode.reward, episode.stop_reason) == ("finished", 1.0, "no_tools_called")
    metrics = json.loads(episode.metrics)
    assert (metrics["computed"], metrics["named"], metrics["add_calls"], metrics["num_turns"]) == (1, 1, 1, 2)
    assert [message.content for message in episode.messages if message.role == "tool"] == ["1"]
    assert (episode.sandbox_id, episode.initial_state_id, episode.initial_state_patch) == (None, None, None)
    assert [tool["name"] for tool in json.loads(episode.tool_schemas)] == ["add"]
    assert episode.environment == "sums"


def test_steps_hold_what_the_policy_sampled(worker: RolloutWorker, policy: MockPolicy) -> None:
    replies = [
        Reply(None, [("add", {"a": 0, "b": 1})], prompt_token_ids=[1, 2], token_ids=[3], logprobs=[-0.5]),
        Reply("1", prompt_token_ids=[1, 2, 3, 4], token_ids=[5, 6], logprobs=[-1.0, 0.0]),
    ]
    episode = played(worker, policy, *replies)
    for step, reply in zip(episode.steps, replies, strict=True):
        assert step.prompt_token_ids == reply.prompt_token_ids
        assert step.completion_token_ids == reply.token_ids
        assert step.completion_logprobs == reply.logprobs
        assert step.policy_version == 7
        assert step.policy_seconds > 0
        assert step.usage is not None and step.usage.prompt_tokens == len(reply.prompt_token_ids)
    assert (episode.usage.prompt_tokens, episode.usage.completion_tokens) == (6, 3)
    assert episode.policy_version == 7
    assert [step.finish_reason for step in episode.steps] == ["tool_calls", "stop"]
    assert [len(step.observations) for step in episode.steps] == [1, 0]
    assert [step.state_patch for step in episode.steps] == [None, None]


def test_policy_is_asked_as_environment_and_config_say_together(
    worker: RolloutWorker, policy: MockPolicy
) -> None:
    played(worker, policy, Reply("1"))
    (request,) = policy.requests
    environments = (request["top_p"], request["max_completion_tokens"], request["min_p"])
    assert environments == (0.25, 77, 0.1)
    assert request["temperature"] == 1.0  # the config's
    assert request["return_token_ids"] is True
    assert "n" not in request
    assert [tool["function"]["name"] for tool in request["tools"]] == ["add"]


def test_policy_is_asked_as_an_iteration_says_where_it_does(
    worker: RolloutWorker, policy: MockPolicy
) -> None:
    greedy = SamplingSettings(temperature=0.0, max_tokens=5)
    policy.requests.clear()
    row = rows(worker)[0]
    for sampling in (greedy, None):
        (result,) = worker.play([spec(row).model_copy(update={"sampling": sampling})])
        recorded = record(result).sampling
        assert sampling == (recorded and SamplingSettings.model_validate_json(recorded))
    asked = [(request["temperature"], request["max_completion_tokens"]) for request in policy.requests]
    assert asked == [(0.0, 5), (1.0, 77)]
    assert all(request["return_token_ids"] for request in policy.requests)


def test_seed_is_the_episodes_own_and_the_same_again(worker: RolloutWorker, policy: MockPolicy) -> None:
    policy.requests.clear()
    first, second = spec(rows(worker)[0]), spec(rows(worker)[0])
    for one in (first, second, first):
        worker.play([one])
    seeds = [request["seed"] for request in policy.requests]
    assert seeds[0] == seeds[2] != seeds[1]


def test_malformed_tool_call_is_an_observation(worker: RolloutWorker, policy: MockPolicy) -> None:
    calls: list[Any] = [("add", "{"), ("nothing", {}), ("add", {"a": 1})]
    episode = played(worker, policy, *(Reply(None, [call]) for call in calls), Reply("1"))
    assert (episode.status, episode.reward) == ("finished", 0.5) or episode.stop_reason == "max_turns_reached"
    assert all(step.observations[0].role == "tool" for step in episode.steps[:3])
    assert episode.steps[0].action.tool_calls is not None
    assert episode.steps[0].action.tool_calls[0].function.arguments == "{"


def test_answer_cut_off_by_its_token_limit_marks_the_episode(
    worker: RolloutWorker, policy: MockPolicy
) -> None:
    assert played(worker, policy, Reply("1", finish_reason="length")).is_truncated
    assert not played(worker, policy, Reply("1")).is_truncated


def test_conversation_longer_than_the_context_ends_the_episode_as_it_stands(
    worker: RolloutWorker, policy: MockPolicy
) -> None:
    overlong = Fault(status=400, message="This model's maximum context length is 8192 tokens.")
    episode = played(worker, policy, Reply(None, [("add", {"a": 0, "b": 1})]), overlong)
    assert (episode.status, episode.stop_reason, episode.reward) == ("finished", "prompt_too_long", 0.5)
    assert episode.is_truncated
    assert len(episode.steps) == 1 and episode.steps[0].done


def test_policy_that_refuses_is_the_policys_failure(worker: RolloutWorker, policy: MockPolicy) -> None:
    episode = played(worker, policy, Reply(None, [("add", {"a": 0, "b": 1})]), Fault(status=400))
    assert episode.error is not None
    assert (episode.status, episode.reward) == ("failed", None)
    assert (episode.error.stage, episode.error.kind) == ("policy", "policy")
    assert "400: made to fail" in episode.error.message or "made to fail" in episode.error.message
    assert len(episode.steps) == 1 and not episode.steps[0].done


def test_environments_own_time_limit_is_named(folder: Path) -> None:
    with MockPolicy(default=Fault("hang")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker(
            "sums.py", args={"timeout_seconds": 0.25}, policy=endpoint, search_path=folder
        ) as worker:
            (result,) = worker.play([spec(rows(worker)[0])])
    error = record(result).error
    assert error is not None
    assert (error.stage, error.kind, error.type) == ("policy", "environment", "EpisodeFailed")
    assert error.message == "the environment's own limit, its timeout_seconds of 0.25, was reached"


def test_oracle_answers_an_environment_without_a_sandbox(folder: Path) -> None:
    with rollout_worker("sums.py", policy=ORACLE, search_path=folder) as worker:
        results: list[EpisodeResult] = [worker.play([spec(row)])[0] for row in rows(worker)]
    assert [result.reward for result in results] == [0.5] * 3  # named, not computed


def test_rows_are_the_evaluation_datasets(folder: Path) -> None:
    found = loaded("sums.py", folder).rows()
    assert len(found) == 3
    assert found[1]["answer"] == "2"
    assert found[1]["prompt"][-1]["content"] == "What is 1 + 1?"


def of_split(folder: Path, split: Split, **args: Any) -> ClassicEnvironment:
    return ClassicEnvironment(EnvironmentSettings(id="sums.py", args=args, split=split), folder)


def test_rows_of_the_train_split_are_the_training_datasets(folder: Path) -> None:
    training = of_split(folder, "train", train=[7, 8])
    assert [row["answer"] for row in training.rows()] == ["8", "9"]  # type: ignore[attr-defined]
    assert len(training.of_split("eval").rows()) == 3
    assert len(training.rows()) == 2, "it stays what it was"


def test_split_that_an_environment_has_no_dataset_for_is_named(folder: Path) -> None:
    complaint = r"environment\.split: got 'train', and sums\.py has no training dataset.*; give 'eval'"
    with pytest.raises(EnvironmentLoadError, match=complaint):
        of_split(folder, "train").rows()


def test_signal_handlers_stay_as_they_were(folder: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    loaded("sums.py", folder)
    assert [signal.getsignal(number) for number in numbers] == before


def test_file_may_be_called_like_a_module_that_others_import(folder: Path) -> None:
    assert len(loaded("json.py", folder).rows()) == 3
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("missing.py", {}, r"environment\.id: there is no file .*missing\.py"),
        (
            "no_such_module",
            {},
            r"environment\.id: 'no_such_module' cannot be imported.*`agentdojo`.*Python file",
        ),
        ("needy.py", {}, r"environment\.id: 'needy\.py' cannot be imported.*a_package_that_is_not_there"),
        ("nothing.py", {}, r"environment\.id: module .*nothing has no `load_environment`"),
        ("json", {}, r"environment\.id: module json has no `load_environment`"),
        ("number.py", {}, r"environment\.id: number\.py gave a int; a verifiers MultiTurnEnv is needed"),
        ("sums.py", {"wait": 1}, r"environment\.args: sums\.py does not take them: .*'wait'"),
        ("picky.py", {"n": 3}, r"environment\.args: picky\.py does not take them: n must be even"),
    ],
)
def test_environment_that_does_not_load_says_what_is_wrong(
    folder: Path, name: str, args: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(EnvironmentLoadError, match=complaint):
        loaded(name, folder, **args)


def test_weights_are_the_rubrics(folder: Path) -> None:
    with rollout_worker("sums.py", args={"weight": 0.75}, search_path=folder) as worker:
        (result,) = worker.play([spec(rows(worker)[0])])
    assert result.reward is not None and math.isclose(result.reward, 0.25)
