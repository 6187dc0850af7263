"""The oracle policy: a verifiers client that replays a task's ground truth, no model needed."""

import json
import time
from typing import Any

from verifiers.legacy.clients import Client
from verifiers.legacy.types import Response, ResponseMessage, Tool, ToolCall, Usage

from workers.errors import PolicyError
from workers.policy.endpoint_watch import EndpointWatch
from workers.sandbox.base import Session
from workers.settings import PolicyEndpoint


class OracleClient(Client[Any, Any, Any, Any]):
    """Acts from the ground truth: the environment's in `state["oracle"]`, else the session's.

    Where there is no sandbox, it answers with the row's `answer`.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.watch = EndpointWatch(PolicyEndpoint(kind="oracle", model="oracle"))

    async def get_response(
        self,
        prompt: Any,
        model: str,
        sampling_args: dict[str, Any],
        tools: list[Tool] | None = None,
        **kwargs: Any,
    ) -> Response:
        """The next turn of the ground truth.

        Raises:
            PolicyError: The task has no ground truth, or it is at its end.
        """
        state = kwargs["state"]
        script = state.get("oracle")
        if script is None:
            script = state["oracle"] = await _read_script(state)
        turn_index = len(state["trajectory"])
        if tools and sampling_args.get("tool_choice") == "none":
            turn = _describe_ground_truth(script)
        elif script:
            turn = script.pop(0)
        else:
            raise PolicyError("the ground truth is at its end, but the environment asks for more")
        calls = [
            ToolCall(id=f"call_{turn_index}_{i}", name=call["name"], arguments=json.dumps(call["arguments"]))
            for i, call in enumerate(turn["tool_calls"])
        ]
        return Response(
            id=f"oracle-{turn_index}",
            created=int(time.time()),
            model=model,
            usage=Usage(prompt_tokens=0, reasoning_tokens=0, completion_tokens=0, total_tokens=0),
            message=ResponseMessage(
                content=turn["content"],
                tool_calls=calls or None,
                finish_reason="tool_calls" if calls else "stop",
                is_truncated=False,
            ),
        )

    def setup_client(self, config: Any) -> None:
        """There is nothing to connect to."""

    async def to_native_tool(self, tool: Tool) -> Any:
        """Not used: the oracle speaks verifiers' own types."""
        return tool

    async def to_native_prompt(self, messages: Any) -> tuple[Any, dict[str, Any]]:
        """Not used."""
        return messages, {}

    async def get_native_response(self, *_: Any, **__: Any) -> Any:
        """Not used."""

    async def raise_from_native_response(self, response: Any) -> None:
        """Not used."""

    async def from_native_response(self, response: Any) -> Response:
        """Not used."""
        return response

    async def close(self) -> None:
        """There is nothing to close."""


def _describe_ground_truth(script: list[dict[str, Any]]) -> dict[str, Any]:
    """What to say where tools may only be spoken of: which ones the ground truth will need."""
    names = dict.fromkeys(call["name"] for turn in script for call in turn["tool_calls"])
    return {"content": ", ".join(names), "tool_calls": []}


async def _read_script(state: Any) -> list[dict[str, Any]]:
    session = state.get("sandbox")
    if isinstance(session, Session):
        return await session.oracle()
    answer = state.get("answer")
    if not answer:
        raise PolicyError("policy.kind `oracle`: this task has no ground truth: no sandbox and no `answer`")
    return [{"content": str(answer), "tool_calls": []}]
