"""What a text that was sampled says: content, reasoning and tool calls, as vLLM's parsers read it."""

import importlib
import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from renderers import ParsedResponse, ParsedToolCall, ToolCallParseStatus

from workers.errors import TemplateError

_TOOL_CALL_PATTERN = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", re.DOTALL)
_ID_CHARACTERS = string.ascii_letters + string.digits


class AnswerReader(Protocol):
    """Reads answers of a model."""

    name: str
    """What `policy.tool_parser` calls it."""

    def keeps_special_tokens(self, tools: Sequence[Any]) -> bool:
        """Whether a text has its special tokens when it is read, where these tools are offered."""
        ...

    def read(self, text: str, ids: list[int], tools: Sequence[Any]) -> ParsedResponse:
        """What an answer says.

        Args:
            text: The answer, without what ended it.
            ids: Its token ids.
            tools: What was offered, in OpenAI's shape; nothing: then it calls nothing.
        """
        ...


class PlainReader:
    """All of a text is content: `policy.tool_parser` is null."""

    name = "null"

    def keeps_special_tokens(self, tools: Sequence[Any]) -> bool:
        """See `AnswerReader`."""
        return False

    def read(self, text: str, ids: list[int], tools: Sequence[Any]) -> ParsedResponse:
        """See `AnswerReader`."""
        return ParsedResponse(content=text)


class HermesReader:
    """Tool calls as vLLM's parser `hermes` finds them in a text; they need not be special tokens."""

    name = "hermes"

    def keeps_special_tokens(self, tools: Sequence[Any]) -> bool:
        """See `AnswerReader`."""
        return bool(tools)

    def read(self, text: str, ids: list[int], tools: Sequence[Any]) -> ParsedResponse:
        """See `AnswerReader`."""
        content, opened, _ = text.partition("<tool_call>")
        calls = (
            [_parse_call(closed or cut) for closed, cut in _TOOL_CALL_PATTERN.findall(text)]
            if opened and tools
            else []
        )
        if any(call.status != ToolCallParseStatus.OK for call in calls):
            return ParsedResponse(content=text)  # as vLLM's parser has it: no call, all of it content
        return ParsedResponse(content=content if calls else text, tool_calls=calls)


class VllmReader:
    """vLLM's own parsers of tool calls and of reasoning.

    Args:
        tools: Name of the parser of tool calls, or None.
        reasoning: Name of the parser of reasoning, or None.
        tokenizer: The model's.
        options: What the chat template is told besides: some parsers go by it.

    Raises:
        TemplateError: vLLM is not installed, or has no such parser, or it cannot do with the tokenizer.
    """

    def __init__(
        self, tools: str | None, reasoning: str | None, tokenizer: Any, options: Mapping[str, Any]
    ) -> None:
        self.name = str(tools)
        names = " and ".join(name for name in (tools, reasoning) if name)
        try:
            manager: Any = importlib.import_module("vllm.parser.parser_manager").ParserManager
            protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
        except ImportError as error:
            raise TemplateError(
                f"answers are to be read by vLLM's {names}, and vLLM is not installed here: {error}"
            ) from error
        self._request: Any = protocol.ChatCompletionRequest
        self._calls = tools is not None
        self._told = {"chat_template_kwargs": dict(options)} if reasoning else {}
        self._tokenizer = tokenizer
        try:
            self._kind: Any = manager.get_parser(tools, reasoning, enable_auto_tools=self._calls)
            self._parser([])
        except Exception as error:  # whatever it is that a parser does not find in this tokenizer
            raise TemplateError(f"vLLM's parser {names} does not start for this model: {error}") from error

    def _parser(self, tools: Sequence[Any]) -> tuple[Any, Any]:
        request = self._request.model_validate(
            {
                "model": "m",
                "messages": [{"role": "user", "content": ""}],
                **({"tools": list(tools), "tool_choice": "auto"} if tools else {}),
            }
        )
        return self._kind(self._tokenizer, request.tools, **self._told), request

    def keeps_special_tokens(self, tools: Sequence[Any]) -> bool:
        """See `AnswerReader`."""
        parser, request = self._parser(tools)
        return not parser.adjust_request(request).skip_special_tokens

    def read(self, text: str, ids: list[int], tools: Sequence[Any]) -> ParsedResponse:
        """See `AnswerReader`."""
        parser, request = self._parser(tools)
        try:
            reasoning, content, calls = parser.parse(
                text, request, enable_auto_tools=self._calls and bool(tools), model_output_token_ids=ids
            )
        except Exception:  # noqa: BLE001 - vLLM answers such a text as it is
            return ParsedResponse(content=text)
        made = [
            ParsedToolCall(raw=call.arguments, name=call.name, arguments=call.arguments, id=_make_call_id())
            for call in cast("list[Any]", calls or [])
        ]
        return ParsedResponse(content=content or "", reasoning_content=reasoning, tool_calls=made)


def make_reader(
    tools: str | None, reasoning: str | None, tokenizer: Any, options: Mapping[str, Any]
) -> AnswerReader:
    """The reader for `policy.tool_parser` and the engine's `reasoning_parser`.

    Raises:
        TemplateError: It cannot be had.
    """
    if reasoning is None and tools is None:
        return PlainReader()
    if reasoning is None and tools == HermesReader.name:
        return HermesReader()
    return VllmReader(tools, reasoning, tokenizer, options)


def _make_call_id() -> str:
    """A call's id of nine letters and digits, the one form that every template takes."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


def _parse_call(text: str) -> ParsedToolCall:
    try:
        call = json.loads(text)
        name, arguments = str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False)
        name.encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ParsedToolCall(raw=text, status=ToolCallParseStatus.INVALID_JSON)
    try:
        arguments.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write, and UTF-8 cannot
        arguments = json.dumps(call["arguments"])
    return ParsedToolCall(raw=text, name=name, arguments=arguments, id=_make_call_id())
