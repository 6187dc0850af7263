"""Which of a turn's tool calls failed, and how an environment was set up, as the records have it."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
import verifiers as vf

from workers.environments.setup_labels import setup_labels
from workers.environments.tool_errors import declare_tool_errors, note_tool_errors, observe_calls
from workers.environments.tracing import EpisodeTrace, Turn
from workers.settings import EnvironmentSettings


def divide(a: float, b: float) -> float:
    """Divides.

    Args:
        a: The dividend.
        b: The divisor.
    """
    return a / b


def action(*arguments: str) -> vf.AssistantMessage:
    calls = [
        vf.ToolCall(id=f"c{number}", name="divide", arguments=each) for number, each in enumerate(arguments)
    ]
    return vf.AssistantMessage(role="assistant", content=None, tool_calls=calls)


def test_verifiers_own_tool_loop_says_which_calls_raised_or_could_not_be_read() -> None:
    trace = EpisodeTrace(turns=[Turn()])
    env = vf.ToolEnv(tools=[divide], eval_dataset=None, dataset=_dataset(), rubric=vf.Rubric())
    observe_calls(env, lambda: trace)
    messages = [action('{"a": 1, "b": 2}', '{"a": 1, "b": 0}', "no JSON", '{"a": 6, "b": 3}')]
    state: Any = {"trajectory": [{"extras": {}}]}
    asyncio.run(env.env_response(messages, state))
    note_tool_errors(env, messages, state, trace, 0)
    assert trace.turns[0].tool_errors == [False, True, True, False]


def _dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": [{"role": "user", "content": "Divide"}], "answer": ""}])


class OwnLoop(vf.MultiTurnEnv):
    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        return []


@pytest.mark.parametrize(
    ("in_session", "said", "expected"),
    [
        ([False, True], None, [False, True]),
        ([False], None, None),  # which of the two calls it was cannot be told
        ([], [True, False], [True, False]),
        ([False, True], [True], [False, True]),  # one value for two calls says nothing
        ([], None, None),
    ],
)
def test_of_an_own_environment_the_session_tells_or_the_environment_says(
    in_session: list[bool], said: list[bool] | None, expected: list[bool] | None
) -> None:
    session: Any = SimpleNamespace(call_errors=[True, *in_session])
    trace = EpisodeTrace(session=session, turns=[Turn()])
    state: Any = {"trajectory": [{}]}
    if said is not None:
        declare_tool_errors(state, said)
    note_tool_errors(OwnLoop(dataset=_dataset(), rubric=vf.Rubric()), [action("{}", "{}")], state, trace, 1)
    assert trace.turns[0].tool_errors == expected


def test_a_turn_without_calls_says_nothing_of_errors() -> None:
    trace = EpisodeTrace(turns=[Turn()])
    note_tool_errors(object(), [vf.AssistantMessage(role="assistant", content="Done")], {}, trace, 0)
    assert trace.turns[0].tool_errors is None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, (None, None, "utility")),
        ({"defense": "tool_filter"}, ("tool_filter", None, "utility")),
        ({"defense": {"id": "tool_filter"}}, ("tool_filter", None, "utility")),
        ({"preset": "agentdojo-tool_filter"}, ("tool_filter", "agentdojo-tool_filter", "utility")),
        ({"preset": "agentdojo-default"}, (None, "agentdojo-default", "utility")),
        ({"defense": []}, (None, None, "utility")),
        ({"defense": ["a", {"id": "b", "args": {"x": 1}}]}, ('["a", {"args": {"x": 1}, "id": "b"}]', None)),
        ({"reward": "attacker"}, (None, None, "attacker")),
        ({"reward": {"utility": 1.0}}, (None, None, '{"utility": 1.0}')),
    ],
)
def test_an_episode_says_how_agentdojo_was_set_up(args: dict[str, Any], expected: tuple[str | None]) -> None:
    labels = setup_labels(EnvironmentSettings(id="agentdojo", args=args))
    assert tuple(labels.values())[: len(expected)] == expected
    assert set(setup_labels(EnvironmentSettings(id="shell", args=args)).values()) == {None}


def test_step_rewards_are_part_of_what_was_rewarded() -> None:
    args = {"reward": "utility", "step_reward": {"tool_error": -0.1}}
    spec = setup_labels(EnvironmentSettings(id="agentdojo", args=args))["reward_spec"]
    assert json.loads(spec or "") == args
