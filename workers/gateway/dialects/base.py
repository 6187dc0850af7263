"""What a dialect does: reads an agent's request, and words answers and errors for it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import verifiers as vf
from pydantic import ValidationError
from verifiers.v1.dialects import Dialect as WireDialect

from workers.gateway.calls import ModelAnswer, ModelRequest, to_prompt
from workers.gateway.errors import GatewayError

FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's input, as free text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""Parameters of the function that stands for a tool which takes free text."""


class Dialect(ABC):
    """One wire format.

    Requests are read by verifiers' dialect of the same route; answers are worded here, for verifiers only
    ever hands on what a provider has worded.
    """

    name: ClassVar[str]
    """What steps call it: `chat`, `responses` or `messages`."""
    route: ClassVar[str]
    """Path of its model calls."""
    wire: ClassVar[WireDialect[Any]]
    """verifiers' dialect."""

    def secret(self, headers: Mapping[str, str]) -> str:
        """The key that a request carries."""
        return self.wire.secret({"Authorization": headers.get("authorization", ""), **headers})

    def read(self, body: dict[str, Any]) -> ModelRequest:
        """A request's body as a model call.

        Raises:
            GatewayError: It is none, or asks for what a policy cannot do.
        """
        try:
            return self._read(body)
        except (ValidationError, LookupError, TypeError, AttributeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise GatewayError(
                "invalid", f"the request is no body of {self.route}: {type(error).__name__}: {said}"
            ) from error

    @abstractmethod
    def _read(self, body: dict[str, Any]) -> ModelRequest: ...

    @abstractmethod
    def answer(self, request: ModelRequest, answer: ModelAnswer) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def events(self, request: ModelRequest, answer: ModelAnswer) -> Iterator[bytes]:
        """An answer as server-sent events."""

    @abstractmethod
    def error(self, error: GatewayError) -> dict[str, Any]:
        """The body of a refusal."""

    def error_event(self, error: GatewayError) -> bytes:
        """A refusal as a server-sent event, where the stream has begun already."""
        return event(self.error(error))

    def keep_alive(self) -> bytes:
        """What is sent while the policy thinks."""
        return b": keep-alive\n\n"

    def _parsed(self, body: dict[str, Any]) -> tuple[list[Any], list[vf.Tool]]:
        """The messages and functions of a request, as verifiers reads them."""
        request = self.wire.parse_request(body)
        tools = [
            vf.Tool(name=t.name, description=t.description, parameters=t.parameters, strict=t.strict)
            for t in request.tools or []
        ]
        return to_prompt(request.messages), tools


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event with JSON data."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name is not None else ""
    return f"{head}data: {text}\n\n".encode("utf-8", "replace")


def take(body: dict[str, Any], *names: str, into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Those of a body's fields that are set."""
    found = {name: body[name] for name in names if body.get(name) is not None}
    return found if into is None else {**into, **found}


def take_token_limit(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """How many tokens the answer may have at most, by the first of these fields that is set.

    Raises:
        GatewayError: It is no number of tokens.
    """
    for name in names:
        most = body.get(name)
        if most is None:
            continue
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise GatewayError("invalid", f"{name}: got {most!r:.80}; give a whole number above 0")
        return {"max_tokens": most}
    return {}


def refuse_unless(ok: bool, message: Callable[[], str]) -> None:
    """Raises a `GatewayError` for what a policy cannot do."""
    if not ok:
        raise GatewayError("invalid", message())
