"""What becomes of every sampling key: passed on to the policy, heeded here, or refused by its name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from workers.errors import PolicyError
from workers.settings import PolicyEndpoint, SamplingSettings

Route: TypeAlias = Literal["per_turn", "exact", "endpoint"]
"""`exact`: token ids to `/inference/v1/generate`. Else chat completions: of a deployment of our own
(`per_turn`), or of another server (`endpoint`)."""
Fate: TypeAlias = Literal["passed on", "template", "heeded", "refused"]
"""`passed on`: it is in the request. `template`: the chat template is told it. `heeded`: it is no part of the
request, and what is asked for is done by Kumite. `refused`: an error at the start names it."""

_PER_TURN_HINT = "set policy.tokens to `per_turn`"


@dataclass(frozen=True)
class SamplingKey:
    """What becomes of one key of `policy.sampling`, of its `extra_body`, or of an environment's arguments."""

    name: str
    example: Any
    """A value that says something, for documentation and tests."""
    exact: Fate
    chat: Fate = "passed on"
    """On the chat-completions route of a deployment of our own."""
    endpoint: Fate | None = None
    """On that of another server. None: as `chat`."""
    sent_as: str | None = None
    """The key's name on the route of token ids, where that is another."""
    neutral: tuple[Any, ...] = ()
    """Values that ask for what is done anyway: taken on every route that refuses the key."""
    instead: str = _PER_TURN_HINT
    """What to do where it is refused."""

    def fate(self, route: Route) -> Fate:
        """What becomes of it on a route."""
        if route == "exact":
            return self.exact
        return self.chat if route == "per_turn" or self.endpoint is None else self.endpoint


_NO_SUCH_HINT = "give policy.sampling.extra_body.structured_outputs, as this vLLM names it"
_LEAVE_OUT_HINT = "leave it out: Kumite sets it"
_ONE_CHOICE_HINT = "leave it out, and set `samples` for more episodes of a task"
_EXAMPLE_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}

SAMPLING_KEYS: tuple[SamplingKey, ...] = (
    SamplingKey("temperature", 0.7, "passed on"),
    SamplingKey("top_p", 0.9, "passed on"),
    SamplingKey("top_k", 20, "passed on"),
    SamplingKey("min_p", 0.1, "passed on"),
    SamplingKey("seed", 5, "passed on"),
    SamplingKey("max_tokens", 9, "passed on"),
    SamplingKey("max_completion_tokens", 9, "passed on", sent_as="max_tokens"),
    SamplingKey("min_tokens", 2, "passed on"),
    SamplingKey("presence_penalty", 0.5, "passed on"),
    SamplingKey("frequency_penalty", 0.5, "passed on"),
    SamplingKey("repetition_penalty", 1.1, "passed on"),
    SamplingKey("repetition_detection", {"max_pattern_size": 8, "min_count": 4}, "passed on"),
    SamplingKey("logit_bias", {"7": -1.0}, "passed on"),
    SamplingKey("allowed_token_ids", [7, 8], "passed on"),
    SamplingKey("bad_words", ["no"], "passed on"),
    SamplingKey("thinking_token_budget", 64, "passed on"),
    SamplingKey("stop", ["."], "passed on"),
    SamplingKey("stop_token_ids", [7], "passed on"),
    SamplingKey("include_stop_str_in_output", True, "passed on"),
    SamplingKey("ignore_eos", True, "passed on"),
    SamplingKey("skip_special_tokens", False, "heeded"),
    SamplingKey("spaces_between_special_tokens", False, "refused", neutral=(True,)),
    SamplingKey("structured_outputs", {"choice": ["a", "b"]}, "passed on"),
    SamplingKey("response_format", _EXAMPLE_SCHEMA, "passed on", sent_as="structured_outputs"),
    *(
        SamplingKey(name, example, "refused", "refused", "passed on", instead=_NO_SUCH_HINT)
        for name, example in (
            ("guided_json", {"type": "object"}),
            ("guided_regex", "a+"),
            ("guided_choice", ["a", "b"]),
            ("guided_grammar", "root ::= 'a'"),
            ("guided_decoding_backend", "xgrammar"),
            ("guided_whitespace_pattern", " "),
        )
    ),
    SamplingKey("vllm_xargs", {"a": 1}, "passed on", sent_as="extra_args"),
    SamplingKey("cache_salt", "salt", "passed on"),
    SamplingKey("priority", 1, "passed on"),
    SamplingKey("chat_template_kwargs", {"enable_thinking": False}, "template"),
    SamplingKey("reasoning_effort", "low", "template"),
    SamplingKey("documents", [{"title": "a", "text": "b"}], "template"),
    SamplingKey("chat_template", "{{ messages }}", "refused", instead="set policy.chat_template to its file"),
    SamplingKey("add_generation_prompt", False, "refused", neutral=(True,)),
    SamplingKey("continue_final_message", True, "refused", neutral=(False,)),
    SamplingKey("add_special_tokens", True, "refused", neutral=(False,)),
    SamplingKey("echo", True, "refused", neutral=(False,)),
    SamplingKey(
        "tool_choice",
        "required",
        "refused",
        neutral=("auto", "none"),
        instead="leave it out, or set policy.tokens to `per_turn`",
    ),
    SamplingKey("parallel_tool_calls", False, "refused", neutral=(True,)),
    SamplingKey("include_reasoning", False, "refused", neutral=(True,)),
    SamplingKey("prompt_logprobs", 1, "refused", neutral=(0,)),
    SamplingKey("top_logprobs", 2, "refused", neutral=(0,)),
    SamplingKey("logprob_token_ids", [7], "refused"),
    SamplingKey("logprobs", False, "refused", neutral=(True, 0, 1), instead=_LEAVE_OUT_HINT),
    SamplingKey("return_token_ids", False, "refused", neutral=(True,), instead=_LEAVE_OUT_HINT),
    SamplingKey("truncate_prompt_tokens", 64, "refused"),
    SamplingKey("truncation_side", "left", "refused"),
    SamplingKey("use_beam_search", True, "refused", neutral=(False,)),
    SamplingKey("length_penalty", 0.5, "refused", neutral=(1.0,)),
    SamplingKey("n", 2, "refused", "refused", neutral=(1,), instead=_ONE_CHOICE_HINT),
    SamplingKey("best_of", 2, "refused", "refused", neutral=(1,), instead=_ONE_CHOICE_HINT),
    SamplingKey("stream", True, "refused", "refused", neutral=(False,), instead=_LEAVE_OUT_HINT),
    SamplingKey("stream_options", {"include_usage": True}, "refused", "refused", instead=_LEAVE_OUT_HINT),
    *(
        SamplingKey(name, example, "refused", "refused", instead=_LEAVE_OUT_HINT)
        for name, example in (
            ("model", "other"),
            ("messages", [{"role": "user", "content": "other"}]),
            ("tools", [{"type": "function", "function": {"name": "other"}}]),
        )
    ),
    SamplingKey("user", "someone", "refused"),
    SamplingKey("request_id", "one", "refused"),
    SamplingKey("modalities", ["text"], "refused"),
)
"""Every key that is known. Others are refused by `exact`, and passed on to chat completions."""

_KEYS_BY_NAME = {key.name: key for key in SAMPLING_KEYS}
_CLIENT_ARGUMENTS = ("extra_body", "extra_headers")
"""Arguments of the OpenAI package's methods, and none of the request."""


@dataclass
class ExactRequest:
    """What a turn by token ids asks for."""

    params: dict[str, Any] = field(default_factory=dict[str, Any])
    """vLLM's sampling parameters, and what stands beside them."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the chat template is told besides (`template_options`)."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end a turn, beside the renderer's own."""
    stop: tuple[str, ...] = ()
    """Strings that end a turn, and are no part of its content."""
    skip_special_tokens: bool | None = None
    """Whether content has no special tokens. None: as the parser of tool calls needs it."""
    calls_tools: bool = True
    """Whether the answer may be tool calls (`tool_choice` is not `none`)."""


def route_of(endpoint: PolicyEndpoint) -> Route:
    """The route that an endpoint's requests take."""
    if endpoint.tokens == "exact":
        return "exact"
    return "endpoint" if endpoint.paced else "per_turn"


def find_refused_keys(arguments: Mapping[str, Any], route: Route) -> Iterator[tuple[str, str]]:
    """What of these arguments is refused on a route: each key's name, and what to do instead.

    Args:
        arguments: Those of a request, `extra_body` among them or not. Null is not set.
        route: Where they would go.
    """
    for name, value in arguments.items():
        if value is None:
            continue
        if name == "extra_body":
            for inner, instead in find_refused_keys(cast("Mapping[str, Any]", value), route):
                yield f"extra_body.{inner}", instead
            continue
        key = _KEYS_BY_NAME.get(name)
        if key is None:
            if route == "exact" and name not in _CLIENT_ARGUMENTS:
                yield name, _PER_TURN_HINT
        elif key.fate(route) == "refused" and not _is_neutral(value, key.neutral):
            yield name, key.instead
        elif route == "exact" and name == "response_format" and _grammar_of(value) is None:
            yield name, "give a response_format of type json_schema, json_object or text"


def make_sampling_arguments(sampling: SamplingSettings) -> dict[str, Any]:
    """The sampling settings as arguments of a request."""
    return sampling.model_dump(exclude_none=True)


def make_exact_request(arguments: Mapping[str, Any]) -> ExactRequest:
    """What a turn's arguments ask for on the route of token ids.

    Args:
        arguments: As verifiers hands them to a client; `extra_body` wins.

    Raises:
        PolicyError: One of them is refused.
    """
    extra = cast("dict[str, Any]", arguments.get("extra_body") or {})
    given = {k: v for k, v in {**arguments, **extra}.items() if v is not None and k not in _CLIENT_ARGUMENTS}
    for name, instead in find_refused_keys(given, "exact"):
        raise PolicyError(
            f"policy.tokens is `exact`, where {name} cannot be heeded, and the environment asks for "
            f"{name}: {given[name]!r:.100}; {instead}"
        )
    made = ExactRequest(options=template_options(given))
    for name, value in given.items():
        key = _KEYS_BY_NAME[name]
        if name == "stop_token_ids":
            made.stop_token_ids = tuple(int(each) for each in value)
        elif name == "response_format":
            made.params |= _grammar_of(value) or {}
        elif key.exact == "passed on":
            made.params[key.sent_as or name] = value
    if "max_tokens" in given:
        made.params["max_tokens"] = given["max_tokens"]
    stop: Any = given.get("stop") or ()
    if not given.get("include_stop_str_in_output"):
        made.stop = (stop,) if isinstance(stop, str) else tuple(stop)
    made.skip_special_tokens = given.get("skip_special_tokens")
    made.calls_tools = given.get("tool_choice") != "none"
    return made


def template_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a request tells the chat template besides, as vLLM does.

    Args:
        arguments: Those of the request, `extra_body` spread among them.
    """
    told = dict(cast("Mapping[str, Any]", arguments.get("chat_template_kwargs") or {}))
    effort = arguments.get("reasoning_effort")
    if effort is not None:
        told.setdefault("enable_thinking", effort != "none")
        told["reasoning_effort"] = effort
    if arguments.get("documents") is not None:
        told["documents"] = arguments["documents"]
    return told


def _grammar_of(response_format: Any) -> dict[str, Any] | None:
    """VLLM's sampling parameters for OpenAI's `response_format`; None if it is of a type with none."""
    match response_format:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"structured_outputs": {"json_object": True}}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"structured_outputs": {"json": schema}}
        case _:
            return None


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in neutral) or value == []
