# pyright: reportMissingTypeStubs=false
"""`policy.tokens: exact` for v1's model calls: each goes on from the call before it, id by id."""

import json
import time
import uuid
from typing import Any

import httpx
from openai.types.chat import ChatCompletion
from verifiers.v1 import graph
from verifiers.v1.dialects import chat

from workers.environments.v1.play import Call, Play
from workers.errors import PolicyError, TemplateError
from workers.policy.endpoint import open_client, request_answer, versioned_model_name
from workers.policy.endpoint_watch import EndpointWatch
from workers.policy.exact_answers import read_answer
from workers.policy.renderer_cache import RendererCache
from workers.policy.sampling_keys import make_exact_request
from workers.policy.turn_seeds import seed_turn
from workers.settings import PolicyEndpoint

_graph: Any = graph
_chat: Any = chat
_LIMITS = ("max_tokens", "max_completion_tokens")


class ExactClient:
    """Asks a policy by token ids, over `/inference/v1/generate`.

    A call whose messages go on from an earlier one's, in verifiers' message graph, has a prompt that begins
    with that call's prompt and sampled ids, verbatim; where that cannot be had, it fails.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
        TemplateError: No renderer is exact for the model.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self._connection = open_client(endpoint)
        self._url = f"{(endpoint.base_url or '').rstrip('/').removesuffix('/v1')}/inference/v1/generate"
        self._renderers = RendererCache(endpoint)
        self.watch = EndpointWatch(endpoint)

    async def close(self) -> None:
        """Closes its connections."""
        await self._connection.close()

    async def ask(self, play: Play, trace_id: str, body: dict[str, Any]) -> ChatCompletion:
        """The answer to a model call, with its token ids.

        Args:
            play: Our notes of the episode.
            trace_id: verifiers' trace that asks.
            body: The request, as a chat completion.

        Raises:
            PolicyError: The policy refused, failed, did not answer in time, or cannot go on exactly.
            OverlongPromptError: The prompt is longer than the policy's context.
        """
        session: Any = play.interception.state_routes[trace_id]
        asked = make_exact_request(seed_turn(_sampling(session.ctx.sampling, body)))
        renderer = await self._renderers.get(asked)
        request: Any = _chat.ChatDialect().parse_request(body)
        tools: list[Any] = [] if body.get("tool_choice") == "none" else body.get("tools") or []
        messages = [_to_wire(message) for message in request.messages]
        found = _call_before(play, session.trace, request)
        if found is None:
            ids = _begin(renderer, messages, tools)
        else:
            ids = _go_on(renderer, messages, tools, *found)
        params = {"skip_special_tokens": False, **asked.params}
        params |= {"stop_token_ids": list(renderer.get_stop_token_ids()), "logprobs": 1}

        async def generate() -> dict[str, Any]:
            body = {
                "model": versioned_model_name(session.ctx.model),
                "token_ids": ids,
                "sampling_params": params,
            }
            raw: Any = await self._connection.post(self._url, body=body, cast_to=httpx.Response)
            return _read_sampled(raw.json(), ids)

        answer = await request_answer(self._endpoint, generate, self.watch.pace, found is None)
        return _as_completion(read_answer(renderer, answer, tools, asked), self._endpoint.model)


def _read_sampled(told: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """What `/inference/v1/generate` has answered, as `read_answer` takes it.

    Raises:
        KeyError, TypeError: It is no such answer.
    """
    choice: dict[str, Any] = told["choices"][0]
    return {
        "request_id": told.get("request_id"),
        "prompt_ids": ids,
        "completion_ids": list(choice["token_ids"]),
        "completion_logprobs": [float(entry["logprob"]) for entry in choice["logprobs"]["content"]],
        "finish_reason": choice.get("finish_reason"),
    }


def _sampling(imposed: Any, body: dict[str, Any]) -> dict[str, Any]:
    """How a call is sampled: as the run and the seat have it; of what the program asks for, its own limit.

    Raises:
        PolicyError: The program asks for what exact tokens cannot be held to.
    """
    choice = body.get("tool_choice")
    for name, is_asked in (
        ("tool_choice", bool(body.get("tools")) and choice not in (None, "auto", "none")),
        ("response_format", body.get("response_format") not in (None, {"type": "text"})),
    ):
        if is_asked:
            raise PolicyError(
                f"policy.tokens is `exact`, and the harness asks for {name} {body[name]!r:.100}, which exact "
                "tokens cannot be held to; set policy.tokens to `per_turn`"
            )
    sampling: dict[str, Any] = imposed.model_dump(exclude_none=True)
    limits = [given.pop(name) for given in (sampling, dict(body)) for name in _LIMITS if given.get(name)]
    return {**sampling, **({"max_tokens": min(limits)} if limits else {})}


def _call_before(play: Play, trace: Any, request: Any) -> tuple[Call, int] | None:
    """The call that a request goes on from, and the number of messages that it has from there."""
    offered: list[Any] = [request.tools] if "tools" in _graph.prepare_turn.__annotations__ else []
    turn = _graph.prepare_turn(trace, request.messages, *offered)
    answered = {
        record.node: call
        for record, call in zip(trace.calls, play.calls.get(trace.id, []), strict=False)
        if record.node is not None and call.completion is not None
    }
    for count in range(len(turn.prefix_node_ids), 0, -1):
        if (call := answered.get(turn.prefix_node_ids[count - 1])) is not None:
            return call, count
    return None


def _begin(renderer: Any, messages: list[dict[str, Any]], tools: list[Any]) -> list[int]:
    """The prompt of a conversation's first turn.

    Raises:
        PolicyError: It cannot be rendered.
    """
    try:
        made = renderer.render(_with_tool_names(messages), tools=tools or None, add_generation_prompt=True)
    except TemplateError as error:
        raise PolicyError(
            f"policy.tokens is `exact`, and {error}; set policy.tokens to `per_turn`"
        ) from error
    return list(made.token_ids)


def _go_on(
    renderer: Any, messages: list[dict[str, Any]], tools: list[Any], call: Call, count: int
) -> list[int]:
    """A prompt that begins with the ids of an earlier call."""
    following = _with_tool_names(messages)[count:]
    before, choice = call.completion, call.completion.choices[0]
    roles = [message["role"] for message in following]
    if tuple(str(tool["function"]["name"]) for tool in tools) != call.tools:
        raise _inexact("the harness offers other tools than in the turn before")
    if not roles or set(roles[:-1]) - {"tool"} or roles[-1] not in ("tool", "user"):
        raise _inexact("the harness goes on by other messages than tool results and then one user message")
    try:
        made = renderer.bridge_to_next_turn(
            list(before.prompt_token_ids), list(choice.token_ids), following, tools=tools or None
        )
    except TemplateError as error:
        raise _inexact(str(error)) from error
    if made is None:
        raise _inexact(
            f"the renderer {type(renderer).__name__} writes earlier turns anew once a {roles[-1]} message "
            "follows (some drop what the model has thought)"
        )
    return list(made.token_ids)


def _inexact(reason: str) -> PolicyError:
    return PolicyError(
        "policy.tokens is `exact`, and this turn's prompt cannot go on from the last one verbatim: "
        f"{reason}; set policy.tokens to `per_turn`"
    )


def _to_wire(message: Any) -> dict[str, Any]:
    """A message as a renderer takes it, its content as one text.

    Raises:
        PolicyError: It holds what is no text.
    """
    wire: dict[str, Any] = _chat.message_to_wire(message)
    if isinstance(wire.get("content"), list):
        parts: list[dict[str, Any]] = wire["content"]
        if other := next((part["type"] for part in parts if part.get("type") != "text"), None):
            raise PolicyError(
                f"policy.tokens is `exact`, and a message holds a part of type {other!r}: exact tokens are "
                "of text only; set policy.tokens to `per_turn`"
            )
        wire["content"] = "\n".join(str(part["text"]) for part in parts)
    return wire


def _with_tool_names(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with the tool's name in each of its results: some templates write it."""
    calls = [call for message in messages for call in _calls_of(message)]
    names = {str(call["id"]): str(call["function"]["name"]) for call in calls if "function" in call}
    return [
        {"name": names[message["tool_call_id"]], **message}
        if message["role"] == "tool" and message.get("tool_call_id") in names
        else message
        for message in messages
    ]


def _calls_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return message.get("tool_calls") or []


def _as_completion(answer: dict[str, Any], model: str) -> ChatCompletion:
    """An answer by token ids as a chat completion, with its ids and log-probabilities."""
    prompt, sampled = list(answer["prompt_ids"]), list(answer["completion_ids"])
    made: list[Any] = answer["tool_calls"] or []
    calls: list[dict[str, Any]] = [
        {
            "id": call.id or f"call_{uuid.uuid4().hex[:12]}",
            "type": "function",
            "function": {"name": call.name, "arguments": _as_text(call.arguments)},
        }
        for call in made
        if call.name
    ]
    message: dict[str, Any] = {"role": "assistant", "content": answer["content"] or (None if calls else "")}
    if answer.get("reasoning_content"):
        message["reasoning_content"] = answer["reasoning_content"]
    if calls:
        message["tool_calls"] = calls
    scores: list[dict[str, Any]] = [
        {"token": "", "bytes": None, "logprob": score, "top_logprobs": []}
        for score in answer["completion_logprobs"]
    ]
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": answer.get("finish_reason") or "stop",
        "logprobs": {"content": scores},
        "token_ids": sampled,
    }
    usage = {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(sampled),
        "total_tokens": len(prompt) + len(sampled),
    }
    return ChatCompletion.model_validate(
        {
            "id": answer.get("request_id") or f"exact-{uuid.uuid4().hex[:12]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": usage,
            "prompt_token_ids": prompt,
        }
    )


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})
