"""Whether a step's action is what its sampled ids say, by the tokenizer and the parsers of the run."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cluster.config import VllmPolicy
from cluster.verify.prompts import Prompts
from cluster.verify.report import NotChecked
from cluster.verify.run_context import RunContext
from cluster.verify.sampled_text import end_tokens, texts_of
from workers.records import EpisodeRecord, Message, StepRecord

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", re.DOTALL)


@dataclass
class ReadAction:
    """What a text says, as an action."""

    content: str | None = None
    reasoning: str | None = None
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Name and arguments of each tool call."""


class Actions:
    """Reads sampled ids as actions.

    Args:
        run: The run.
        prompts: Where templates and renderers come from.
    """

    def __init__(self, run: RunContext, prompts: Prompts) -> None:
        self._run = run
        self._prompts = prompts
        self._parsers: dict[str, Any] = {}

    def check(self, episode: EpisodeRecord, step: StepRecord) -> str | None:
        """What is wrong with the action of a step that has ids, or None.

        Raises:
            NotChecked: That cannot be told.
        """
        if self._run.is_harmony and not self._run.is_exact:
            raise NotChecked("gpt-oss writes its answers by Harmony")
        template = self._prompts.template(episode)
        ids = step.completion_token_ids or []
        unknown = next((i for i in ids if not 0 <= i < 2**31), None)
        if unknown is not None:
            return f"{unknown} is no token id"
        early = set(ids[:-1]) & {template.tokenizer.eos_token_id}
        if early and not self._run.extra_body(episode).get("ignore_eos"):
            return f"the end token {early.pop()} is among its sampled ids, and not at their end"
        texts = list(self._texts(episode, step, template.tokenizer))
        read: list[ReadAction] = []
        for reading in self._readings(episode, step, texts):
            if _is_same(reading, step.action):
                return None
            read.append(reading)
        if self._is_known and read:
            return _difference(read[0], step.action)
        return _missing(texts, step.action)

    @property
    def _is_known(self) -> bool:
        """Whether the parsers are known: of an endpoint that someone else runs, they are not."""
        return self._run.is_exact or isinstance(self._run.policy, VllmPolicy)

    def _texts(self, episode: EpisodeRecord, step: StepRecord, tokenizer: Any) -> Iterator[str]:
        ends = self.ends(episode)
        skip = self._run.extra_body(episode).get("skip_special_tokens")
        yield from texts_of(step, tokenizer, ends, self._run.stop_strings(episode, step), skip)

    def ends(self, episode: EpisodeRecord) -> set[int]:
        """Ids that end a turn.

        Raises:
            NotChecked: The tokenizer is not known.
        """
        tokenizer = self._prompts.template(episode).tokenizer
        ends = end_tokens(tokenizer, self._run.model_folder)
        given: Any = self._run.extra_body(episode).get("stop_token_ids") or []
        ends |= {int(i) for i in given}
        if self._run.is_exact:
            ends |= set(self._prompts.renderer(episode).get_stop_token_ids())
        return ends

    def _readings(self, episode: EpisodeRecord, step: StepRecord, texts: list[str]) -> Iterator[ReadAction]:
        if self._run.is_exact:
            yield from self._by_renderer(episode, step, texts)
            return
        choice = self._choice(episode, step)
        tools, reasoning = self._run.parsers
        if reasoning is None and tools in (None, "hermes"):
            for text in texts:
                if choice == "required":
                    yield read_plainly(text, choice)
                yield read_plainly(text, "auto" if tools or choice == "required" else "none")
        elif self._is_known:
            for text in texts:
                yield self._by_vllm(episode, step, text, choice)

    def _choice(self, episode: EpisodeRecord, step: StepRecord) -> str:
        """The request's tool choice: `none` where there is nothing to choose from.

        Raises:
            NotChecked: It names one function.
        """
        if not episode.tools_of(step):
            return "none"
        if isinstance(json.loads(step.asked or "{}").get("tool_choice"), dict):
            raise NotChecked("the agent asked for a call of one function, whose name is not sampled")
        sampling = self._run.sampling(episode, step)
        given = sampling.tool_choice or self._run.environment_sampling.get("tool_choice")
        return given if isinstance(given, str) else "auto"

    def _by_renderer(
        self, episode: EpisodeRecord, step: StepRecord, texts: list[str]
    ) -> Iterator[ReadAction]:
        renderer = self._prompts.renderer(episode)
        tools = [{"type": "function", "function": tool} for tool in episode.tools_of(step)] or None
        parsed: Any = renderer.parse_response(list(step.completion_token_ids or []), tools=tools)
        made = cast("list[Any]", parsed.tool_calls or [])
        calls = [(str(call.name), _as_text(call.arguments)) for call in made if call.name]
        yield ReadAction(parsed.content, parsed.reasoning_content, calls)
        # Special tokens and stop strings may have been taken out of the content.
        tokenizer = self._prompts.template(episode).tokenizer
        content = parsed.content or ""
        stops = [content.find(stop) for stop in self._run.stop_strings(episode, step)]
        ends = [place for place in stops if place >= 0]
        cut = content[: min(ends)] if ends else content
        yield ReadAction(cut, parsed.reasoning_content, calls)
        for token in tokenizer.all_special_tokens:
            cut = cut.replace(token, "")
        yield ReadAction(cut, parsed.reasoning_content, calls)
        for text in texts:
            yield read_plainly(text, "auto" if episode.tools_of(step) else "none")

    def _by_vllm(self, episode: EpisodeRecord, step: StepRecord, text: str, choice: str) -> ReadAction:
        """As vLLM's own parsers read it.

        Raises:
            NotChecked: vLLM is not installed, or knows no parser of that name.
        """
        names = self._run.parsers
        offered = [{"type": "function", "function": tool} for tool in episode.tools_of(step)] or None
        try:
            import importlib

            manager: Any = importlib.import_module("vllm.parser.parser_manager").ParserManager
            protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
            kind = manager.get_parser(names[0], names[1], enable_auto_tools=names[0] is not None)
        except (ImportError, TypeError) as error:
            raise NotChecked(
                f"vLLM's parsers {names[0]} and {names[1]} cannot be had here: {error}"
            ) from error
        if kind is None:
            return ReadAction(text)
        extra = self._run.extra_body(episode)
        request = protocol.ChatCompletionRequest.model_validate(
            {
                "model": "m",
                "messages": [{"role": "user", "content": ""}],
                "tools": offered,
                **({"tool_choice": choice} if offered else {}),
                "chat_template_kwargs": extra.get("chat_template_kwargs"),
            }
        )
        try:
            tokenizer = self._prompts.template(episode).tokenizer
            told: dict[str, Any] = {"chat_template_kwargs": extra.get("chat_template_kwargs") or {}}
            parser = kind(tokenizer, request.tools, **(told if names[1] else {}))
        except Exception as error:
            raise NotChecked(
                f"vLLM's parsers {names[0]} and {names[1]} do not start here: {error}"
            ) from error
        reasoning, content, calls = parser.parse(
            text,
            request,
            enable_auto_tools=names[0] is not None,
            model_output_token_ids=list(step.completion_token_ids or []),
        )
        made = cast("list[Any]", calls or [])
        return ReadAction(content, reasoning, [(call.name, call.arguments) for call in made])


def read_plainly(text: str, choice: str) -> ReadAction:
    """A text without reasoning, as vLLM reads it with its parser `hermes`.

    Args:
        text: What was sampled.
        choice: `auto`; `required`, of which some versions' grammar makes a JSON list of calls; or `none`.
    """
    if choice == "required":
        try:
            made: Any = json.loads(text)
            calls = [(str(each["name"]), json.dumps(each.get("parameters"))) for each in made]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            calls = []
        return ReadAction(None, None, calls)
    if choice == "none" or "<tool_call>" not in text:
        return ReadAction(text)
    try:
        found = [json.loads(closed or cut) for closed, cut in _CALL.findall(text)]
        calls = [(str(call["name"]), json.dumps(call["arguments"])) for call in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ReadAction(text)
    return ReadAction(text[: text.find("<tool_call>")], None, calls)


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})


def _is_same(read: ReadAction, action: Message) -> bool:
    return (
        _comparable(read.content) == _comparable(action.content)
        and _comparable(read.reasoning) == _comparable(action.reasoning_content)
        and _parse_arguments(read.calls) == _parse_arguments(_calls_of(action))
    )


def _difference(read: ReadAction, action: Message) -> str:
    if _parse_arguments(read.calls) != _parse_arguments(_calls_of(action)):
        return f"its sampled ids make the tool calls {read.calls}, and it has {_calls_of(action)}"[:400]
    for name, sampled, recorded in (
        ("reasoning", read.reasoning, action.reasoning_content),
        ("content", read.content, action.content),
    ):
        if _comparable(sampled) != _comparable(recorded):
            return f"its sampled ids say {sampled!r:.150} as {name}, and it has {recorded!r:.150}"
    return "its sampled ids say something else"


def _missing(texts: Sequence[str], action: Message) -> str | None:
    """Where the parsers are not known: what of the action was not sampled, or of what was, is nowhere."""
    if not texts:
        return None
    said = [_comparable(text) for text in texts]
    parts = {"content": action.content, "reasoning": action.reasoning_content}
    for name, part in parts.items():
        if not any(_comparable(part) in text for text in said):
            return f"its {name} {part!r:.150} is not in what its sampled ids say, {texts[0]!r:.150}"
    for name, arguments in _calls_of(action):
        for word in (name, *_argument_leaves(arguments)):
            if not any(form in text for text in texts for form in (word, json.dumps(word)[1:-1])):
                return f"{word!r:.100} of its tool call is not in what its sampled ids say, {texts[0]!r:.150}"
    length = sum(len(_comparable(part)) for part in parts.values())
    if not action.tool_calls and min(map(len, said)) > (length + 64 if length else 0):
        return f"its sampled ids say more than it has: {texts[0]!r:.150}"
    return None


def _argument_leaves(arguments: str) -> Iterator[str]:
    """The single values among a call's arguments, as texts."""
    try:
        waiting: list[Any] = [json.loads(arguments)]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            mapping = cast(dict[str, Any], value)
            yield from mapping
            waiting += mapping.values()
        elif isinstance(value, list):
            waiting += cast(list[Any], value)
        elif isinstance(value, str):
            yield value


def _calls_of(action: Message) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in action.tool_calls or []]


def _parse_arguments(calls: Sequence[tuple[str, str]]) -> list[tuple[str, Any]]:
    """Calls with their arguments as values: how JSON is spaced says nothing."""
    meant: list[tuple[str, Any]] = []
    for name, arguments in calls:
        try:
            meant.append((name, json.loads(arguments)))
        except (ValueError, RecursionError):
            meant.append((name, arguments))
    return meant


def _comparable(text: str | None) -> str:
    """A text without what detokenizers differ in: space around it, and the mark of a broken character."""
    return (text or "").replace("�", "").strip()
