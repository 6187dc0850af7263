"""A base for environments whose tools are a toolset's: all that is left to write are the tasks."""

import json
from collections.abc import Mapping
from typing import Any, cast

import verifiers as vf
from datasets import Dataset

from workers.environments.sandboxed import SandboxedEnv
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import SandboxSettings


class ToolsetEnv(SandboxedEnv):
    """Multi-turn episodes with a toolset's tools: a message that calls none ends them, to be scored.

    Args:
        toolset: The toolset's class, `module:Class`, as the image has it.
        rows: The tasks, as verifiers has them: `prompt`, and `info` with `task_id` and `setup`, which the
            session is opened with.
        rewards: Weights of the metrics that the session's `evaluate` gives, in the reward. One with weight 0
            is only recorded.
        image: What to call the image in errors. `sandbox.image` in the config names it.
        config: Keyword arguments of the toolset's class.
        max_turns: Most actions of the policy in one episode.
        **kwargs: See `vf.StatefulToolEnv`.
    """

    def __init__(
        self,
        toolset: str,
        rows: list[dict[str, Any]],
        rewards: Mapping[str, float],
        *,
        image: str | None = None,
        config: Mapping[str, Any] | None = None,
        max_turns: int = 10,
        **kwargs: Any,
    ) -> None:
        spec = ToolsetSpec(image or toolset.partition(":")[0], toolset, dict(config or {}))
        kwargs.setdefault("rubric", vf.Rubric([_make_metric(name) for name in rewards], [*rewards.values()]))
        kwargs.setdefault("eval_dataset", Dataset.from_list(_keep_from_arrow(rows)))
        super().__init__(spec, SandboxSettings(), max_turns=max_turns, **kwargs)

    def task_of(self, state: vf.State) -> dict[str, Any]:
        """What an episode's session is opened with."""
        return cast(dict[str, Any], state["info"])["setup"]

    def evidence_of(self, state: vf.State) -> dict[str, Any]:
        """What the session's `evaluate` is told of the conversation: `output`, the policy's last words."""
        last: Any = state["trajectory"][-1]["completion"]
        content: Any = last[-1].content if last else None
        return {"output": content if isinstance(content, str) else None}

    async def setup_state(self, state: vf.State) -> vf.State:
        """Opens the episode's session, and offers its tools."""
        session = await self._session(state)
        opened = await session.open(self.task_of(state))
        state["tool_defs"] = [vf.Tool(**tool.model_dump()) for tool in opened.tools]
        return state

    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        """Runs the tool calls of the last message in the episode's session, in order."""
        last: Any = messages[-1]
        session = cast(Session, state["sandbox"])
        return [
            vf.ToolMessage(content=await _run_tool_call(call, session), tool_call_id=call.id)
            for call in cast(list[Any], last.tool_calls or [])
        ]

    async def _evaluate_session(self, session: Session, state: vf.State) -> None:
        state["scores"] = (await session.evaluate(self.evidence_of(state))).metrics


def _keep_from_arrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their `info` as JSON text, which verifiers reads, where all of it is JSON.

    Arrow would give every task's `setup` the keys of all others, with null for a value, and refuse a value
    that is a number here and a text there.
    """
    try:
        texts = [json.dumps(row["info"], allow_nan=False) for row in rows]
    except (KeyError, TypeError, ValueError):
        return rows
    if any(json.loads(text) != row["info"] for text, row in zip(texts, rows, strict=True)):
        return rows  # it holds tuples, or keys that are numbers
    return [{**row, "info": text} for row, text in zip(rows, texts, strict=True)]


async def _run_tool_call(call: vf.ToolCall, session: Session) -> str:
    try:
        arguments: Any = json.loads(call.arguments)  # the model wrote them: they may be anything
    except (ValueError, RecursionError) as error:
        return f"the arguments of {call.name} are not JSON: {error}"
    if not isinstance(arguments, dict):
        return f"the arguments of {call.name} must be an object, got {type(arguments).__name__}"
    return (await session.call(call.name, cast(dict[str, Any], arguments))).text


def _make_metric(name: str) -> Any:
    def metric(state: vf.State) -> float:
        return float(state["scores"][name])

    metric.__name__ = name
    return metric
