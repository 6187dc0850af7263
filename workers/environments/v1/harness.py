"""v1's `null` harness as a loop in the worker: no program is started for an episode."""

import asyncio
import json
from typing import Any, cast

from multidict import CIMultiDict
from pydantic_core import to_json
from verifiers.v1.dialects import chat
from verifiers.v1.harnesses.null import NullHarness
from verifiers.v1.runtimes import ProgramResult

from workers.environments.v1.client import WorkerInterception

_Harness: Any = NullHarness
_chat: Any = chat


class ChatLoop(_Harness):
    """What the `null` harness's program does, in this process.

    It has no tools, as the program has none where no tool server is served: a call of one is answered that it
    is unknown, in the program's words.

    Args:
        config: The harness's.
        interception: Where it asks the model.
    """

    SUPPORTS_TOOL_INTERCEPTION = False

    def __init__(self, config: Any, interception: WorkerInterception) -> None:
        super().__init__(config)
        self._interception = interception

    async def setup(self, runtime: Any) -> None:
        """There is nothing to install."""

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> Any:
        """See verifiers' `Harness.launch`: the loop, to its end."""
        system_prompt, prompt = self.resolve_prompt(data)
        messages: list[dict[str, Any]] = []
        if system_prompt:
            messages.append({"role": "system", "content": system_prompt})
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            given: list[Any] = prompt or []
            messages.extend(_chat.message_to_wire(message) for message in given)
        while True:
            status, answer = await self._ask(secret, {"model": ctx.model, "messages": messages})
            if status != 200:
                return ProgramResult(1, "", f"Error code: {status} - {json.dumps(answer)}")
            message = _as_program_has_it(answer["choices"][0]["message"])
            messages.append(message)
            if not message.get("tool_calls"):
                return ProgramResult(0, "", "")
            for call in message["tool_calls"]:
                content = _refuse_call(call["function"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})

    async def _ask(self, secret: str, body: dict[str, Any]) -> tuple[int, Any]:
        dialect: Any = _chat.ChatDialect()
        call = _ModelCall(secret, dialect.routes[0], to_json(body, inf_nan_mode="constants"))
        # In a task of its own: verifiers cancels those that ask when the rollout is over.
        answer: Any = await asyncio.create_task(self._interception.handle_request(call, dialect))
        return answer.status, json.loads(answer.body)


class _ModelCall(dict[Any, Any]):
    """A model call as verifiers' server takes it from aiohttp: a mapping for notes, headers and a body."""

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


def _refuse_call(function: dict[str, Any]) -> str:
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except json.JSONDecodeError as error:
        return f"error: invalid JSON in tool arguments ({error}); resend the call with valid JSON"
    if not isinstance(arguments, dict):
        kind = type(cast(object, arguments)).__name__
        return f"error: tool arguments must be a JSON object, got {kind}; resend as an object"
    return f"error: unknown tool {function.get('name')!r}"
