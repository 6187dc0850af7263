"""v1's `null` harness as a loop in the worker: no program is started for an episode."""

import asyncio
import importlib
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from multidict import CIMultiDict
from pydantic_core import to_json
from verifiers.v1.dialects import chat
from verifiers.v1.harnesses.null import NullHarness
from verifiers.v1.runtimes import ProgramResult

from workers.environments import tracing
from workers.environments.v1.client import WorkerInterception
from workers.environments.v1.offered_tools import OfferedTools
from workers.environments.v1.play import Call, current_play

_Harness: Any = NullHarness
_chat: Any = chat
_COMPACTION = "verifiers.v1.harnesses.utils"
_compaction: Any = importlib.import_module(f"{_COMPACTION}.compaction") if find_spec(_COMPACTION) else None
"""What the program does with long results and contexts; None before 0.4.0, when it did nothing."""


class ChatLoop(_Harness):
    """What the `null` harness's program does, in this process.

    Args:
        config: The harness's.
        interception: Where it asks the model, and whether a tool may be called. verifiers leaves it out of a
            copy that it makes to refuse.
    """

    def __init__(self, config: Any, interception: WorkerInterception | None = None) -> None:
        super().__init__(config)
        self._interception: Any = interception

    async def setup(self, runtime: Any) -> None:
        """There is nothing to install."""

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
        tool_interception_url: str | None = None,
    ) -> Any:
        """See verifiers' `Harness.launch`: the loop, to its end."""
        async with OfferedTools(self._interception.tools, mcp_urls, self.config.tool_timeout) as tools:
            body: dict[str, Any] = {"model": ctx.model, "messages": self._opening(data)}
            if tools.schemas:
                body["tools"] = tools.schemas
            ask_gate = self._ask_gate if tool_interception_url else None
            return await self._converse(body, secret, tools, _Calls(trace.id), ask_gate)

    def _opening(self, data: Any) -> list[dict[str, Any]]:
        system_prompt, prompt = self.resolve_prompt(data)
        messages: list[dict[str, Any]] = []
        if system_prompt:
            messages.append({"role": "system", "content": system_prompt})
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            given: list[Any] = prompt or []
            messages.extend(_chat.message_to_wire(message) for message in given)
        return messages

    async def _converse(
        self, body: dict[str, Any], secret: str, tools: OfferedTools, calls: "_Calls", ask_gate: Any
    ) -> Any:
        messages: list[dict[str, Any]] = body["messages"]
        while True:
            status, answer = await self._ask(secret, body)
            if status != 200:
                said = json.dumps(answer)
                if _ends_at_overflow(status, said):
                    return ProgramResult(0, "", "")
                return ProgramResult(1, "", f"Error code: {status} - {said}")
            message = _as_program_has_it(answer["choices"][0]["message"])
            messages.append(message)
            if not message.get("tool_calls"):
                return ProgramResult(0, "", "")
            with calls.timed():
                for call in message["tool_calls"]:
                    try:
                        refusal = await ask_gate(secret, call) if ask_gate is not None else None
                    except _RolloutOver as error:
                        return ProgramResult(1, "", str(error))
                    if refusal is not None:
                        messages.append(bound_tool_message(refusal))
                        calls.note(None)
                        continue
                    content, is_error = await tools.call(call["function"])
                    result: dict[str, Any] = {"role": "tool", "tool_call_id": call["id"], "content": content}
                    messages.append(bound_tool_message(result, call["function"].get("name")))
                    calls.note(is_error)

    async def _ask(self, secret: str, body: dict[str, Any]) -> tuple[int, Any]:
        dialect: Any = _chat.ChatDialect()
        call = _Request(secret, dialect.routes[0], to_json(body, inf_nan_mode="constants"))
        # In a task of its own: verifiers cancels those that ask when the rollout is over.
        answer: Any = await asyncio.create_task(self._interception.handle_request(call, dialect))
        return answer.status, json.loads(answer.body)

    async def _ask_gate(self, secret: str, call: dict[str, Any]) -> dict[str, Any] | None:
        """What the policy is told in place of a tool's result; None where the tool may be called.

        Raises:
            _RolloutOver: It must not be called, and the rollout ends.
        """
        function = call["function"]
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except json.JSONDecodeError:
            arguments = function["arguments"]
        asked = {"tool_call_id": call["id"], "name": function.get("name"), "arguments": arguments}
        request = _Request(secret, "/tool", json.dumps(asked).encode())
        handle: Any = self._interception.handle_tool
        answer: Any = await asyncio.create_task(handle(request))
        decision = json.loads(answer.body)
        if answer.status != 200:
            raise _RolloutOver(f"Error code: {answer.status} - {json.dumps(decision)}")
        if decision["action"] == "stop":
            raise _RolloutOver(str(decision["reason"]))
        return decision["message"] if decision["action"] == "deny" else None


class _RolloutOver(Exception):
    """The rollout ends here, as its hooks have it."""


class _Calls:
    """Notes how the tool calls of a rollout's turns went, where its steps are made of it.

    Args:
        trace_id: The rollout's.
    """

    def __init__(self, trace_id: str) -> None:
        self._play = current_play()
        self._trace_id = trace_id

    @contextmanager
    def timed(self) -> Generator[None]:
        """Time spent inside is the tools' of the turn before."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            trace = tracing.current_trace.get()
            if trace is not None:
                trace.seconds["tools"] = trace.seconds.get("tools", 0.0) + seconds
            if (turn := self._turn()) is not None:
                turn.tools_seconds = seconds

    def note(self, is_error: bool | None) -> None:
        """How one call of the turn's went; None: it was not run."""
        if (turn := self._turn()) is not None:
            turn.tool_errors.append(is_error)

    def _turn(self) -> Call | None:
        calls = self._play.calls.get(self._trace_id)
        return calls[-1] if calls else None


class _Request(dict[Any, Any]):
    """What the loop asks, as verifiers' server has it from aiohttp: a mapping for notes, headers, a body."""

    method = "POST"

    def __init__(self, secret: str, path: str, body: bytes) -> None:
        super().__init__()
        self.headers = CIMultiDict({"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
        self.path = path
        self._read_bytes: bytes | None = body

    async def read(self) -> bytes:
        """The body."""
        return self._read_bytes or b""


def _as_program_has_it(message: dict[str, Any]) -> dict[str, Any]:
    """A model's message as the program sends it back: as the openai package reads it, without nulls."""
    return {name: value for name, value in message.items() if value is not None}


def _ends_at_overflow(status: int, said: str) -> bool:
    """Whether the program takes an error for the end of its context and of its work, as from 0.4.0 on."""
    markers: tuple[str, ...] = getattr(_compaction, "CONTEXT_OVERFLOW_MARKERS", ())
    return status in (400, 413) and any(marker in said.casefold() for marker in markers)


def bound_tool_message(message: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """A tool's message as the program keeps it: from 0.4.0 on with the tool's name, and cut if it is long."""
    if _compaction is None:
        return message
    return _compaction.bound_tool_message({**message, "name": name} if name is not None else message)
