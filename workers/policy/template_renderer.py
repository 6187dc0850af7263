# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""Renderers for verifiers' renderer client: one of the library's, or the model's own chat template."""

from collections.abc import Sequence
from typing import Any, cast

from renderers import (
    DefaultRendererConfig,
    ParsedResponse,
    RenderedTokens,
    config_from_name,
    create_renderer,
)
from renderers.base import MODEL_RENDERER_MAP
from renderers.default import DefaultRenderer

from workers.errors import TemplateError
from workers.policy.answer_readers import AnswerReader, make_reader
from workers.policy.chat_template import ChatTemplate, without_tool_names
from workers.policy.sampling_keys import make_sampling_arguments, template_options
from workers.policy.template_probe import TemplateProbe
from workers.settings import PolicyEndpoint

_DefaultRenderer: Any = DefaultRenderer
_known: Any = MODEL_RENDERER_MAP


class TemplateRenderer(_DefaultRenderer):
    """The generic renderer, which goes on from a turn exactly.

    The library's own cannot: it renders every turn anew, and then what the model wrote is what the template
    would have written.

    Args:
        template: The model's; `TemplateProbe.check` must have passed.
        reader: Reads its answers.
    """

    supports_tools = True

    def __init__(self, template: ChatTemplate, reader: AnswerReader) -> None:
        super().__init__(template.tokenizer, DefaultRendererConfig())
        self._template = template
        self._reader = reader

    def get_stop_token_ids(self) -> list[int]:
        """Ids that end a turn: the template's end token, and the tokenizer's."""
        ends = (self._template.end_id, self._template.tokenizer.eos_token_id)
        return list(dict.fromkeys(token for token in ends if token is not None))

    def render(
        self, messages: list[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> RenderedTokens:
        """A first turn's prompt."""
        messages = without_tool_names(messages)
        text = self._template.text(messages, _bare_tools(tools), prompt=add_generation_prompt)
        return _make_rendered(self._template.encode(text))

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Any],
        *,
        tools: list[Any] | None = None,
    ) -> RenderedTokens:
        """A later turn's prompt: the turn before verbatim, then the new messages."""
        return _make_rendered(
            self._template.extend_prompt(
                previous_prompt_ids, previous_completion_ids, new_messages, _bare_tools(tools)
            )
        )

    def parse_response(
        self,
        token_ids: list[int],
        *,
        tools: list[Any] | None = None,
        stop: Sequence[str] = (),
        skip_special_tokens: bool | None = None,
    ) -> ParsedResponse:
        """What was sampled, as a message.

        Args:
            token_ids: With the token that ended the turn, or without.
            tools: What was offered.
            stop: Strings that ended the turn, which are no part of it.
            skip_special_tokens: Whether the text has no special tokens. None: as the reader needs it.
        """
        ids = list(token_ids)
        if ids and ids[-1] in self.get_stop_token_ids():
            ids.pop()
        skip = skip_special_tokens
        if skip is None or tools:
            skip = not self._reader.keeps_special_tokens(tools or [])
        text = str(self._template.tokenizer.decode(ids, skip_special_tokens=skip))
        return self._reader.read(cut_at_stop(text, stop), ids, tools or [])


def make_renderer(endpoint: PolicyEndpoint, stop_token_ids: Sequence[int] = ()) -> Any:
    """The renderer for a policy whose tokens are to be exact.

    Args:
        endpoint: The policy; what its sampling tells the chat template besides is heeded.
        stop_token_ids: Ids that end a turn beside the renderer's own.

    Raises:
        TemplateError: There is none that is exact; names the alternative.
    """
    renderer = _make_renderer(endpoint)
    if stop_token_ids:
        ends = list(dict.fromkeys([*renderer.get_stop_token_ids(), *stop_token_ids]))
        renderer.get_stop_token_ids = lambda: ends
    return renderer


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of these strings."""
    places = [place for each in stop if each and (place := text.find(each)) >= 0]
    return text[: min(places)] if places else text


def _make_renderer(endpoint: PolicyEndpoint) -> Any:
    model = endpoint.tokenizer or endpoint.model
    name = endpoint.renderer or (None if endpoint.chat_template else _known.get(model))
    options = {
        **endpoint.template_options,
        **template_options({**make_sampling_arguments(endpoint.sampling), **endpoint.sampling.extra_body}),
    }
    template = ChatTemplate(model, endpoint.chat_template, options)
    written = sorted(set(cast(dict[str, str], _known).values()))
    if name is not None:
        if name not in written:
            raise TemplateError(
                f"policy.renderer is {name!r}, which is none of the renderers package: {', '.join(written)}"
            )
        return _library_renderer(name, template.tokenizer, options)
    try:
        reader = make_reader(
            endpoint.tool_parser, endpoint.reasoning_parser, template.tokenizer, template.options
        )
        TemplateProbe(template, reader).check()
    except TemplateError as error:
        raise TemplateError(
            f"policy.tokens is `exact`, and {error}: {_suggest_alternative(error)}set policy.renderer to a "
            f"renderer that is written for this model ({', '.join(written)}), or policy.tokens to `per_turn`"
        ) from error
    return TemplateRenderer(template, reader)


def _suggest_alternative(error: TemplateError) -> str:
    if "policy.tool_parser" in str(error):
        return "set policy.tool_parser to vLLM's parser for this model (`llama3_json`, `mistral`, …), or "
    return ""


def _library_renderer(name: str, tokenizer: Any, options: dict[str, Any]) -> Any:
    """A renderer of the package, which keeps what a model has thought: its ids stand in later prompts.

    Raises:
        TemplateError: It can't be told these options, or it is not written for this tokenizer.
    """
    making: Any = create_renderer
    config: Any = config_from_name(name)
    try:
        if "thinking_retention" in type(config).model_fields:
            config = type(config)(**{"thinking_retention": "all", **_reasoning_switches(config, options)})
        return making(tokenizer, config, chat_template_kwargs=options or None)
    except Exception as error:
        raise TemplateError(
            f"policy.tokens is `exact`, and the renderer {name!r} (policy.renderer, or by the model's name) "
            f"cannot be had: {error}; set policy.renderer to another, leave out what it is told by "
            "chat_template_kwargs, or set policy.tokens to `per_turn`"
        ) from error


def _reasoning_switches(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The switches of its own by which a renderer keeps earlier reasoning, where nobody says otherwise."""
    fields, wanted = type(config).model_fields, {"preserve_thinking": True, "clear_thinking": False}
    return {key: value for key, value in wanted.items() if key in fields and key not in options}


def _make_rendered(ids: list[int]) -> RenderedTokens:
    return RenderedTokens(token_ids=ids, message_indices=[-1] * len(ids))


def _bare_tools(tools: list[Any] | None) -> list[dict[str, Any]]:
    return [tool["function"] for tool in tools or []]
