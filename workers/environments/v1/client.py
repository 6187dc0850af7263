"""The policy as v1's runner asks it, and the place where it does."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from openai.types.chat import ChatCompletion
from verifiers.v1 import errors
from verifiers.v1.clients import Client
from verifiers.v1.dialects.chat import ChatDialect
from verifiers.v1.interception import InterceptionServer

from workers.environments import tracing
from workers.environments.messages import to_record
from workers.environments.v1.interception import ProgramRoutes, as_stream
from workers.environments.v1.play import Call, Play, current_play
from workers.environments.v1.seats import policy_of
from workers.environments.v1.toolsets import ToolServers
from workers.errors import OverlongPromptError, PolicyError, PolicyRefusal, StaleEpisode
from workers.policy.endpoint import EndpointClient, check_version
from workers.policy.endpoint_watch import EndpointWatch
from workers.policy.requests import plain_message
from workers.policy.turn_seeds import seed_turn
from workers.records import Message, Usage
from workers.sandbox.relay import ProtocolFactory
from workers.settings import PolicyEndpoint

_OF_A_STREAM = frozenset({"stream", "stream_options"})
_Client: Any = Client
_Server: Any = InterceptionServer
_errors: Any = errors
_Overlong: Any = getattr(errors, "OverlongPromptError", _errors.ProviderError)
"""What ends an episode with a score up to 0.3.1, and is a failure of the provider's like any other since."""


class V1PolicyClient(_Client):
    """Asks a policy for what v1's runner asks its provider, and notes each call.

    Args:
        endpoint: Where the run's policy is; the oracle answers with the task's `answer`.
        others: Where those of `policies` are, by name.
    """

    def __init__(self, endpoint: PolicyEndpoint, others: Mapping[str, PolicyEndpoint] | None = None) -> None:
        self._asked = None if endpoint.kind == "oracle" else _open_client(endpoint)
        self._endpoint = endpoint
        self._others = {name: EndpointClient(other) for name, other in (others or {}).items()}
        self._models = {name: other.model for name, other in (others or {}).items()}
        self.watch = EndpointWatch(endpoint) if self._asked is None else self._asked.watch

    async def close(self) -> None:
        """Closes its connections."""
        for client in (self._asked, *self._others.values()):
            if client is not None:
                await client.close()

    async def get_response(
        self, dialect: Any, body: dict[str, Any], sampling: Any, session_id: str = "", **_: Any
    ) -> Any:
        """One completion, as v1 has it.

        Raises:
            ProviderError: There is none; what the client raised is noted.
        """
        if not isinstance(dialect, ChatDialect):
            raise _errors.ProviderError(
                f"the harness asks its model by {dialect.routes[0]}; only chat completions are answered yet"
            )
        trace, play = tracing.current_trace.get(), current_play()
        messages = [plain_message(message) for message in body["messages"]]
        call = play.begin_call(session_id, [to_record(message) for message in messages])
        call.policy = policy_of(str(body["model"]))
        began = time.monotonic()
        assert trace is not None
        try:
            tools: list[dict[str, Any]] = body.get("tools") or []
            call.tools = tuple(str(tool["function"]["name"]) for tool in tools)
            try:
                completion = await self._complete(play, call, session_id, messages, body, tools)
            finally:
                call.seconds = time.monotonic() - began
                trace.seconds["policy"] = trace.seconds.get("policy", 0.0) + call.seconds
        except OverlongPromptError as error:
            play.policy_failure = PolicyRefusal(str(error))
            raise _Overlong(str(error), status_code=400) from error
        except (PolicyError, StaleEpisode) as error:
            play.policy_failure = error
            raise _errors.ProviderError(str(error)) from error
        raw = completion.model_dump(mode="json", exclude_none=True)
        response = dialect.parse_response(dialect.validate_response(raw))
        response.raw = raw
        call.completion = completion
        call.action = _to_action(response.message)
        trace.turns.append(tracing.Turn(call.policy_version, call.seconds))
        if completion.usage is not None:
            call.usage = Usage(
                prompt_tokens=completion.usage.prompt_tokens,
                completion_tokens=completion.usage.completion_tokens,
            )
        return response

    async def relay(self, dialect: Any, body: dict[str, Any], session_id: str = "", **_: Any) -> Any:
        """One completion, as the events of a stream."""
        asked = {name: value for name, value in body.items() if name not in _OF_A_STREAM}
        response = await self.get_response(dialect, asked, None, session_id)
        return as_stream(dialect, response.raw)

    async def _complete(
        self,
        play: Play,
        call: Call,
        session_id: str,
        messages: list[Any],
        body: dict[str, Any],
        tools: list[dict[str, Any]],
    ) -> ChatCompletion:
        rest = {name: value for name, value in body.items() if name not in ("messages", "model", "tools")}
        trace = tracing.current_trace.get()
        assert trace is not None
        if call.policy is not None:  # it has no part in the versions of the run's own
            client, model = self._others[call.policy], self._models[call.policy]
            token = tracing.current_trace.set(tracing.EpisodeTrace(seed=trace.seed))
            try:
                return (await client.ask(messages, model, rest, tools))[1]
            finally:
                tracing.current_trace.reset(token)
        newest = trace.newest_version() if trace.newest_version is not None else None
        if newest is not None:  # a replica that has not changed yet may answer after one that has
            trace.policy_version = max(newest, trace.policy_version or 0)
        if self._asked is None:
            completion = _answer_as_oracle(play, self._endpoint.model)
        elif isinstance(self._asked, EndpointClient):
            completion = (await self._asked.ask(messages, body["model"], seed_turn(rest), tools))[1]
        else:
            completion = await self._asked.ask(play, session_id, body)
        check_version(trace)
        call.policy_version = trace.policy_version
        return completion


def _open_client(endpoint: PolicyEndpoint) -> Any:
    """The client for an endpoint, by what it asks of tokens."""
    if endpoint.tokens != "exact":
        return EndpointClient(endpoint)
    from workers.environments.v1.exact import ExactClient  # imports transformers: seconds

    return ExactClient(endpoint)


def _to_action(message: Any) -> Message:
    """What the policy said, as v1 reads it."""
    made: list[Any] = message.tool_calls or []
    calls = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in made]
    said = {"content": message.content, "reasoning_content": message.reasoning_content, "tool_calls": calls}
    return to_record({"role": "assistant", **said})


def _answer_as_oracle(play: Play, model: str) -> ChatCompletion:
    if play.answer is None:
        raise PolicyError(
            "policy.kind `oracle`: this task has no ground truth: its data has no field `answer` with a text"
        )
    message = {"role": "assistant", "content": play.answer}
    return ChatCompletion.model_validate(
        {
            "id": f"oracle-{uuid.uuid4().hex[:12]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )


class WorkerInterception(_Server):
    """verifiers' own model boundary, without a socket: limits, stops, hooks and its records are its own.

    Args:
        client: Asks the policy, for every seat.
    """

    def __init__(self, client: V1PolicyClient) -> None:
        super().__init__()
        self._policy = client
        self.tools = ToolServers()
        self.chat_seats: set[str] = set()
        """Seats that a loop in this process plays."""
        self.stack.push_async_callback(self.tools.close)
        self.base_url = "http://127.0.0.1"  # nothing listens there: see `ContainerRuntime.host_url`
        self._routes = ProgramRoutes(self)
        self.serve: ProtocolFactory | None = None
        """Answers a connection from a container; from `start` on."""

    async def start(self) -> None:
        """Gets ready to answer programs in containers. It listens nowhere."""
        self.serve = await self._routes.start()
        self.stack.push_async_callback(self._routes.stop)

    def _client(self, config: Any) -> Any:
        return self._policy
