# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""Renderers for verifiers' renderer client: one of the library's, or the model's own chat template."""

import json
import re
import uuid
from typing import Any, cast

from renderers import (
    DefaultRendererConfig,
    ParsedResponse,
    ParsedToolCall,
    RenderedTokens,
    ToolCallParseStatus,
    config_from_name,
    create_renderer,
)
from renderers.base import MODEL_RENDERER_MAP
from renderers.default import DefaultRenderer

from workers.chat_template import ChatTemplate
from workers.errors import TemplateError
from workers.settings import PolicyEndpoint

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", re.DOTALL)
_DefaultRenderer: Any = DefaultRenderer
_known: Any = MODEL_RENDERER_MAP


class TemplateRenderer(_DefaultRenderer):
    """The generic renderer, which goes on from a turn exactly.

    The library's own cannot: it renders every turn anew, and then what the model wrote is what the template
    would have written. Tool calls are hermes-style, and found in the text as vLLM's `hermes` parser does,
    for they need not be special tokens.

    Args:
        template: The model's; `check_exact` must have passed.
    """

    supports_tools = True

    def __init__(self, template: ChatTemplate) -> None:
        super().__init__(template.tokenizer, DefaultRendererConfig())
        self._template = template

    def render(
        self, messages: list[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> RenderedTokens:
        """A first turn's prompt."""
        text = self._template.text(messages, _bare(tools), prompt=add_generation_prompt)
        return _rendered(self._template.encode(text))

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Any],
        *,
        tools: list[Any] | None = None,
    ) -> RenderedTokens:
        """A later turn's prompt: the turn before verbatim, then the new messages."""
        return _rendered(
            self._template.extended(previous_prompt_ids, previous_completion_ids, new_messages, _bare(tools))
        )

    def parse_response(self, token_ids: list[int], **kwargs: Any) -> ParsedResponse:
        """What was sampled, as a message."""
        text = self._template.decode(token_ids).removesuffix(self._template.end)
        content, opened, _ = text.partition("<tool_call>")
        calls = [_parsed(closed or cut) for closed, cut in _CALL.findall(text)] if opened else []
        if any(call.status != ToolCallParseStatus.OK for call in calls):
            return ParsedResponse(content=text)  # as vLLM's parser has it: no call, all of it content
        return ParsedResponse(content=content if calls else text, tool_calls=calls)


def make_renderer(endpoint: PolicyEndpoint) -> Any:
    """The renderer for a policy whose tokens are to be exact.

    Raises:
        TemplateError: There is none that is exact; names the alternative.
    """
    model = endpoint.tokenizer or endpoint.model
    name = endpoint.renderer or (None if endpoint.chat_template else _known.get(model))
    template = ChatTemplate(model, endpoint.chat_template)
    written = sorted(set(cast(dict[str, str], _known).values()))
    if name is not None:
        if name not in written:
            raise TemplateError(
                f"policy.renderer is {name!r}, which is none of the renderers package: {', '.join(written)}"
            )
        return cast(Any, create_renderer)(template.tokenizer, config_from_name(name))
    try:
        template.check_exact()
    except TemplateError as error:
        raise TemplateError(
            f"policy.tokens is `exact`, and {error}: set policy.renderer to a renderer that is written for "
            f"this model ({', '.join(written)}), or policy.tokens to `per_turn`"
        ) from error
    return TemplateRenderer(template)


def _rendered(ids: list[int]) -> RenderedTokens:
    return RenderedTokens(token_ids=ids, message_indices=[-1] * len(ids))


def _bare(tools: list[Any] | None) -> list[dict[str, Any]]:
    return [tool["function"] for tool in tools or []]


def _parsed(text: str) -> ParsedToolCall:
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
    return ParsedToolCall(raw=text, name=name, arguments=arguments, id=f"call_{uuid.uuid4().hex[:16]}")
