"""Tries a chat template out, before it is trusted to put turns together exactly."""

import json
from typing import Any

from workers.errors import TemplateError
from workers.policy.answer_readers import AnswerReader, HermesReader, PlainReader
from workers.policy.chat_template import ChatTemplate, without_tool_names

_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_TOOL = {"name": "probe_weather", "description": "Weather of a city.", "parameters": _PARAMETERS}
_OFFERED_TOOLS = [{"type": "function", "function": _TOOL}]
_ARGUMENTS = {"city": "Oslo"}
_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "Is it cold?"}
_NEXT_USER = {"role": "user", "content": "And tomorrow?"}
_REASONING_TEXT = "Pondering zebras"
_Messages = list[dict[str, Any]]


class TemplateProbe:
    """Plays made-up conversations by a template, from simple ones on.

    Args:
        template: The template.
        reader: How answers will be read. None: as hermes-style tool calls.
    """

    def __init__(self, template: ChatTemplate, reader: AnswerReader | None = None) -> None:
        self._template = template
        self._reader = reader or HermesReader()
        self._subject = f"the chat template of {template.model!r}"

    def check(self) -> None:
        """Plays them.

        Raises:
            TemplateError: Turns can't be put together exactly, or calls not be read; says what the template
                does, in which conversation.
        """
        self._template.find_end()
        opening = self._find_opening()
        self._check_tools_shown(opening)
        spoken: _Messages = [{"role": "assistant", "content": "Yes."}, _NEXT_USER]
        last: _Messages = [{"role": "assistant", "content": "Also."}]
        if opening != [_USER] and self._accepts([_USER]):
            self._play_conversation("without a system message", [_USER], [*spoken, *last], [])
        self._play_conversation("without tools", opening, [*spoken, *last], [])
        one = [_make_calling_turn("call00001"), _make_tool_answer("call00001", "3 °C")]
        if refused := self._refusal([*opening, *one]):
            raise TemplateError(f"{self._subject} takes no tool call: {refused}")
        self._play_conversation("with one tool call", opening, [*one, *spoken, *last], [_TOOL])
        self._check_read("one tool call", opening, one[0], 1)
        two = [
            _make_calling_turn("call00001", "call00002"),
            _make_tool_answer("call00001", "3 °C"),
            _make_tool_answer("call00002", "{}"),
        ]
        if not self._refusal([*opening, *two]) and self._shows_both(opening, two[0]):
            self._play_conversation("with two tool calls at once", opening, [*two, *spoken, *last], [_TOOL])
            self._check_read("two tool calls at once", opening, two[0], 2)
        self._check_reasoning(opening)

    def _find_opening(self) -> _Messages:
        """The first messages of a conversation that the template takes, with a system message if it can."""
        if self._accepts([_SYSTEM, _USER]):
            return [_SYSTEM, _USER]
        self._template.text([_USER])  # says why it can't
        return [_USER]

    def _accepts(self, messages: _Messages) -> bool:
        return self._refusal(messages, []) is None

    def _refusal(self, messages: _Messages, tools: list[dict[str, Any]] | None = None) -> str | None:
        """What the template says against a conversation; None if it takes it."""
        try:
            self._template.text(messages, [_TOOL] if tools is None else tools)
        except TemplateError as error:
            return str(error.__cause__ or error)
        return None

    def _check_tools_shown(self, opening: _Messages) -> None:
        if refused := self._refusal(opening):
            raise TemplateError(f"{self._subject} takes no tools: {refused}")
        if self._template.text(opening, [_TOOL]) == self._template.text(opening):
            raise TemplateError(f"{self._subject} does not show the model its tools")

    def _shows_both(self, opening: _Messages, action: dict[str, Any]) -> bool:
        """Whether the template writes both calls of an action: some leave all but the first out."""
        return self._sampled_text(opening, action, [_TOOL]).count("probe_weather") > 1

    def _sampled_text(self, said: _Messages, action: dict[str, Any], tools: list[dict[str, Any]]) -> str:
        """What the model would have sampled for an action, by the template, without the end token."""
        template = self._template
        prompt = template.text(said, tools)
        whole = template.text([*said, action], tools, prompt=False)
        sampled, end, _ = whole[len(prompt) :].rpartition(template.end)
        if not whole.startswith(prompt) or not end:
            raise TemplateError(
                f"{self._subject} does not write an answer where the model gives it: it goes on from "
                f"{prompt[-40:]!r} with {whole[_agreement(prompt, whole) :][:40]!r}"
            )
        return sampled

    def _play_conversation(
        self, what: str, opening: _Messages, turns: _Messages, tools: list[dict[str, Any]]
    ) -> None:
        """Puts a conversation together turn by turn, and compares with what it is as a whole."""
        template = self._template
        said, ids = list(opening), template.ids(opening, tools)
        for place, action in enumerate(turns):
            if action["role"] != "assistant":
                continue
            sampled = self._sampled_text(said, action, tools)
            following: _Messages = []
            for message in turns[place + 1 :]:
                if message["role"] == "assistant":
                    break
                following.append(message)
            said = [*said, action, *following]
            if not following:
                continue
            try:
                ids = template.extend_prompt(ids, template.encode(sampled + template.end), following, tools)
            except TemplateError as error:
                raise TemplateError(f"{error}, in a conversation {what}") from error
            if ids != template.ids(without_tool_names(said), tools):
                raise TemplateError(
                    f"{self._subject} writes a turn differently when others follow it, in a conversation "
                    f"{what}"
                )

    def _check_read(self, what: str, opening: _Messages, action: dict[str, Any], calls: int) -> None:
        """Sees that calls as the template writes them are read as calls."""
        if isinstance(self._reader, PlainReader):
            return
        template = self._template
        sampled = self._sampled_text(opening, action, [_TOOL])
        if "probe_weather" not in sampled:
            raise TemplateError(f"{self._subject} leaves the tool calls out of an answer")
        ids = template.encode(sampled)
        skip = not self._reader.keeps_special_tokens(_OFFERED_TOOLS)
        text = str(template.tokenizer.decode(ids, skip_special_tokens=skip))
        read = self._reader.read(text, ids, _OFFERED_TOOLS)
        made = [(call.name, _argument_values(call.arguments)) for call in read.tool_calls or []]
        if made != [(_TOOL["name"], _ARGUMENTS)] * calls:
            raise TemplateError(
                f"the parser {self._reader.name} (policy.tool_parser) cannot read {what} as {self._subject} "
                f"writes it, {text.strip()[:160]!r}"
            )

    def _check_reasoning(self, opening: _Messages) -> None:
        """Sees that what a model has thought stays in the conversation, as it stays in its sampled ids."""
        if False in (self._template.options.get(key) for key in ("enable_thinking", "thinking")):
            return
        if "think" not in str(self._template.tokenizer.get_chat_template()):
            return
        thought = f"<think>\n{_REASONING_TEXT}.\n</think>\n\n"
        calling, answered = _make_calling_turn("call00001"), _make_tool_answer("call00001", "3 °C")
        told: dict[str, Any] = {}
        if self._reader.read(f"{thought}Yes.", self._template.encode(f"{thought}Yes."), []).reasoning_content:
            thought, told = "", {"reasoning_content": f"{_REASONING_TEXT}."}
        spoken = {"role": "assistant", "content": f"{thought}Yes.", **told}
        for what, action, follows in (
            ("a user message", spoken, _NEXT_USER),
            ("a tool's answer", {**calling, "content": thought, **told}, answered),
        ):
            if _REASONING_TEXT not in self._template.text([*opening, action, follows], [_TOOL]):
                raise TemplateError(
                    f"{self._subject} drops earlier reasoning once {what} follows, which sampled ids keep"
                )


def _agreement(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _make_calling_turn(*ids: str) -> dict[str, Any]:
    function = {"name": _TOOL["name"], "arguments": json.dumps(_ARGUMENTS)}
    calls = [{"id": each, "type": "function", "function": function} for each in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _make_tool_answer(identity: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content, "name": _TOOL["name"]}


def _argument_values(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
