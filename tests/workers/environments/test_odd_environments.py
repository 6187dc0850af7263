"""Environments and endpoints as real ones are: each episode comes to what verifiers' own runner would give.

What blocks, uses signals or tears down is in `test_lanes.py`; what does not load, in `test_load_errors.py`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.plan.tasks import _make_task
from tests.helpers.odd_environments import one_turn
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.scripted_policy import (
    Answer,
    ScriptedPolicy,
    call,
    is_after_a_tool,
    message,
    number_of,
)
from workers.environments.classic import scoring
from workers.environments.messages import to_records
from workers.records import EpisodeRecord, Message
from workers.rollout_worker import RolloutWorker
from workers.settings import PolicyEndpoint

ID = "tests.helpers.odd_environments"
SEEN = call("look", {"where": "x"})
TOO_LONG: list[tuple[int, dict[str, Any]]] = [
    (400, {"code": 400, "message": "request (900 tokens) exceeds the available context size (800 tokens)"}),
    (
        400,
        {
            "code": 400,
            "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
        },
    ),
    (400, {"type": "invalid_request_error", "message": "prompt is too long: 210 tokens > 200 maximum"}),
    (400, {"message": "Please reduce the length of the messages.", "code": "context_length_exceeded"}),
    (413, {"message": "Request too large", "code": "request_too_large"}),
    (400, {"message": "This model's maximum context length is 8 tokens. However, you requested 9 tokens"}),
]


@contextmanager
def playing(answer: Answer, kind: str, **args: Any) -> Iterator[tuple[RolloutWorker, ScriptedPolicy]]:
    """A worker of an environment whose policy answers by a function."""
    with ScriptedPolicy(answer) as policy:
        token_ids = args.pop("token_ids", False)
        if kind == "judged":
            args["judge_url"] = policy.base_url
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, token_ids=token_ids)
        with rollout_worker(ID, args={"kind": kind, **args}, policy=endpoint) as worker:
            yield worker, policy


def episodes(worker: RolloutWorker) -> list[EpisodeRecord]:
    """An episode of each task, in the tasks' order."""
    return [record(result) for result in played(worker, *map(spec, rows(worker)))]


def all_of(answer: Answer, kind: str, **args: Any) -> list[EpisodeRecord]:
    with playing(answer, kind, **args) as (worker, _):
        return episodes(worker)


def says(_: dict[str, Any]) -> dict[str, Any]:
    return message("ok")


def looks(body: dict[str, Any]) -> dict[str, Any]:
    return message("done") if is_after_a_tool(body) else message(None, SEEN)


def test_a_rubric_scores_by_its_own_score_rollout() -> None:
    [episode] = all_of(says, "own_score_rollout")
    assert (episode.status, episode.reward) == ("finished", 0.75)
    assert json.loads(episode.metrics)["own"] == 0.5


def test_rewards_of_a_group_may_be_an_array() -> None:
    lengths = iter(range(1, 5))
    with playing(lambda _: message("x" * next(lengths)), "group_of_numpy") as (worker, _):
        [row] = rows(worker)
        made = worker.play([spec(row) for _ in range(4)])
    assert sorted(result.reward or 0.0 for result in made) == [-1.5, -0.5, 0.5, 1.5]


def test_labels_may_be_of_any_type() -> None:
    with playing(says, "labels_of_other_types") as (worker, _):
        made = episodes(worker)
        tasks = [_make_task(row) for row in rows(worker)]
    assert [(e.status, e.suite, e.attack, e.user_task) for e in made] == [("finished", "3", "true", "0")] * 2
    assert [task.difficulty for task in tasks] == ["1.5", "1.5"]


def test_a_rubric_cleans_up_after_a_failed_episode_too(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    made = all_of(looks, "cleans_up", notes=str(notes))
    assert [episode.status for episode in made] == ["finished", "failed"]
    assert sorted(notes.read_text().split()) == ["0", "1"]


def test_an_error_of_infrastructure_is_worth_another_attempt() -> None:
    with playing(says, "infrastructure_fails_once") as (worker, _):
        [row] = rows(worker)
        [first] = worker.play([spec(row)])
        [second] = worker.play([spec(row, attempt=2)])
    assert (first.status, first.failure, first.lasting) == ("failed", "sandbox", False)
    assert (second.status, second.reward) == ("finished", 1.0)


@pytest.mark.slow
def test_a_rate_limit_is_waited_out() -> None:
    refusal = 429, {"error": {"message": "60 requests per minute", "code": 429}}, {"Retry-After": "0"}
    refusals = iter([refusal] * 16)
    with playing(lambda _: next(refusals, None) or message("ok"), "one_turn") as (worker, policy):
        [episode] = episodes(worker)
    assert (episode.status, episode.attempt, len(policy.requests)) == ("finished", 1, 17)


def test_a_prompt_that_grew_too_long_ends_its_episode_in_any_servers_words() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if not is_after_a_tool(body):
            return message(None, SEEN)
        status, error = TOO_LONG[number_of(body)]
        return status, {"error": error}

    for episode in all_of(answer, "tools", tasks=len(TOO_LONG)):
        assert (episode.status, episode.stop_reason) == ("finished", "prompt_too_long"), episode.error
        assert episode.is_truncated and episode.reward is not None


def test_answers_that_are_nearly_openais_are_understood() -> None:
    def without(made: dict[str, Any], key: str) -> dict[str, Any]:
        return {name: value for name, value in made.items() if name != key}

    def ended(reason: Any) -> dict[str, Any]:
        made = message("ok")
        made["choices"][0]["finish_reason"] = reason
        return made

    by_object = {**SEEN, "function": {"name": "look", "arguments": {"where": "x"}}}
    ended_with_calls = message(None, SEEN)
    ended_with_calls["choices"][0]["finish_reason"] = "stop"
    texts = [
        *(ended("eos_token"), ended(None)),
        *(without(message("ok"), "created"), without(message("ok"), "usage"), message("ok", usage={})),
        message([{"type": "text", "text": "ok"}]),
    ]
    calls = [
        message(None, by_object),
        message(None, {**SEEN, "id": None}),
        message(None, without(SEEN, "type")),
        ended_with_calls,
    ]
    answers = [*texts, *calls, ended("abort"), {"error": {"message": "Provider returned error", "code": 400}}]

    def answer(body: dict[str, Any]) -> Any:
        return message("done") if is_after_a_tool(body) else answers[number_of(body)]

    *understood, broken_off, refused = all_of(answer, "tools", tasks=len(answers))
    assert [episode.status for episode in understood] == ["finished"] * (len(answers) - 2)
    assert [episode.reward for episode in understood] == [0.0] * len(texts) + [1.0] * len(calls)
    assert {episode.messages[1].content for episode in understood[: len(texts)]} == {"ok"}
    assert broken_off.error is not None and "finish reason is 'abort'" in broken_off.error.message
    assert refused.error is not None and "Provider returned error" in refused.error.message


def test_log_probabilities_that_are_none_leave_their_step_without_and_say_why() -> None:
    given = [[-0.5, -0.25, -0.125], [-0.5, float("-inf"), -0.125], [-0.5, -0.25]]

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        made = message("ok", prompt_token_ids=[1, 2])
        content = [
            {"token": "a", "logprob": each, "bytes": None, "top_logprobs": []}
            for each in given[number_of(body)]
        ]
        made["choices"][0] |= {"token_ids": [7, 8, 9], "logprobs": {"content": content}}
        return made

    whole, infinite, short = [e.steps[0] for e in all_of(answer, "one_turn", tasks=3, token_ids=True)]
    assert (whole.completion_token_ids, whole.completion_logprobs) == ([7, 8, 9], given[0])
    for step in (infinite, short):
        assert step.completion_token_ids is None and step.completion_logprobs is None
        assert step.no_logprobs


def test_a_malformed_call_that_a_server_refuses_to_take_back_stays_on_record() -> None:
    cut_off = '{"where": "x'

    def answer(body: dict[str, Any]) -> Any:
        for said in body["messages"]:
            for each in said.get("tool_calls") or []:
                try:
                    json.loads(each["function"]["arguments"])
                except ValueError as error:
                    return 400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}}
        return message("done") if is_after_a_tool(body) else message(None, call("look", cut_off))

    [episode] = all_of(answer, "tools")
    assert (episode.status, episode.attempt) == ("finished", 1)
    [made] = episode.steps[0].action.tool_calls or []
    assert made.function.arguments == cut_off
    [sent_back] = episode.steps[1].prompt_messages[1].tool_calls or []
    assert sent_back.function.arguments == "{}"


def test_each_task_offers_its_own_tools() -> None:
    with playing(says, "tools_of_each_row") as (worker, policy):
        made = [record(worker.play([spec(row)])[0]) for row in rows(worker)]
    offered = [request["tools"][0]["function"]["parameters"] for request in policy.requests]
    assert [schema["properties"] for schema in offered] == [
        {"city": {"type": "string"}},
        {"a": {"type": "integer", "minimum": 0}},
    ]
    assert [json.loads(e.tool_schemas)[0]["parameters"] for e in made] == offered


@pytest.mark.slow
def test_a_judge_that_is_down_is_waited_for_and_is_asked_the_question() -> None:
    refusals = iter([(503, {"error": {"message": "overloaded"}})] * 3)

    def answer(body: dict[str, Any]) -> Any:
        return message("Oslo") if body["model"] == "mock" else next(refusals, None) or message("yes")

    with playing(answer, "judged") as (worker, policy):
        [episode] = episodes(worker)
    assert (episode.status, episode.reward, episode.attempt) == ("finished", 1.0, 1)
    assert [request["model"] for request in policy.requests].count("mock") == 1
    assert "task 0" in policy.requests[-1]["messages"][0]["content"]


@pytest.mark.slow
def test_a_grader_that_takes_its_time_out_for_a_failure_gives_no_reward_of_0() -> None:
    with playing(says, "grader_that_catches_all") as (worker, _):
        [result] = worker.play([spec(rows(worker)[0], seconds_left=1.0)])
    episode = record(result)
    assert (episode.status, episode.reward) == ("failed", None)
    assert episode.error is not None and (episode.error.type, episode.error.stage) == (
        "EpisodeTimeout",
        "scoring",
    )


def test_an_attribute_of_the_environments_own_is_not_taken_for_one_of_ours() -> None:
    [episode] = all_of(says, "attribute_called_toolset")
    assert (episode.status, episode.reward) == ("finished", 1.0)


def test_calls_in_a_prompt_may_have_objects_for_arguments_and_a_refusal_is_its_episodes_own() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if number_of(body) == 1:
            return 400, {"error": {"message": "refused by the content filter"}}
        return message("ok")

    weather = ("weather", {"city": "Oslo"})
    calls = [weather, weather, ("add", {"a": 1, "more": {"b": [None, 2]}})]
    with playing(answer, "few_shot_calls") as (worker, policy):
        made = episodes(worker)
    assert [episode.status for episode in made] == ["finished", "failed", "finished"]
    for episode in (made[0], made[2]):  # the other one has no turn
        [shot] = episode.messages[1].tool_calls or []
        assert (shot.function.name, json.loads(shot.function.arguments)) == calls[made.index(episode)]
    for body in policy.requests:
        sent = body["messages"][1]["tool_calls"][0]["function"]
        assert (sent["name"], json.loads(sent["arguments"])) == calls[number_of(body)]


def test_any_text_of_a_tools_is_sent_and_on_record() -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if is_after_a_tool(body):
            return message("done \x00 \u2028")
        return message(None, call("read", {"i": number_of(body)}))

    made = all_of(answer, "odd_texts")
    assert [(episode.status, episode.attempt) for episode in made] == [("finished", 1)] * 4
    said = [episode.messages[2].content or "" for episode in made]
    assert said[0] == "nul \x00" and said[1] == "half \ufffd" and said[3] == "bel \x07 esc \x1b[31m"


def test_a_call_that_is_json_text_is_the_call_that_it_says() -> None:
    saved = {
        "role": "assistant",
        "content": "",
        "tool_calls": ['{"id": "c", "name": "add", "arguments": "{}"}'],
    }
    [read] = to_records([saved])
    assert isinstance(read, Message)
    [made] = read.tool_calls or []
    assert (made.id, made.function.name, made.function.arguments) == ("c", "add", "{}")


def test_a_reward_function_that_is_added_late_is_scored_as_what_it_is() -> None:
    def same(completions: Any, **_: Any) -> list[float]:
        return [1.0 for _ in completions]

    env: Any = one_turn()
    assert not scoring.scores_groups(env)
    env.rubric.add_reward_func(same)
    assert scoring.scores_groups(env)
