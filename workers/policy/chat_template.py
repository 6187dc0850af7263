"""A model's chat template as text and token ids, whole or by what a turn adds to the one before."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from workers.errors import TemplateError
from workers.policy.chat_messages import as_system_messages, prepare_messages
from workers.policy.content_format import ContentFormat, detect_content_format


class ChatTemplate:
    """What vLLM makes of messages, made here: same tokenizer, same template, same preparation of both.

    Args:
        model: The model's folder, or its id on the Hugging Face hub.
        template: A Jinja file, or a Jinja text, in place of the model's own template.
        options: What the template is told besides (vLLM's `chat_template_kwargs`).
        content_format: The form of content that the template takes. None: found out as vLLM does.

    Raises:
        TemplateError: The tokenizer or its template cannot be had.
    """

    def __init__(
        self,
        model: str,
        template: Path | str | None = None,
        options: Mapping[str, Any] | None = None,
        content_format: ContentFormat | None = None,
    ) -> None:
        folder = Path(model).expanduser()
        try:
            from transformers import AutoTokenizer

            library: Any = AutoTokenizer
            self.tokenizer: Any = library.from_pretrained(str(folder) if folder.is_dir() else model)
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise TemplateError(f"the tokenizer of {model!r} cannot be had: {error}") from error
        if template is not None:
            is_file = isinstance(template, Path)
            self.tokenizer.chat_template = template.read_text(encoding="utf-8") if is_file else template
        if not self.tokenizer.chat_template:
            raise TemplateError(f"the tokenizer of {model!r} has no chat template; set policy.chat_template")
        self.model = model
        self.options = dict(options or {})
        self._content_format: ContentFormat | None = content_format
        self._moment: datetime | None = None
        self.end = str(self.tokenizer.eos_token)
        self.end_id: int | None = self.tokenizer.eos_token_id

    def text(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), *, prompt: bool = True
    ) -> str:
        """The template's text.

        Args:
            messages: In OpenAI's shape.
            tools: Name, description and parameters of each.
            prompt: End with what makes the model answer.

        Raises:
            TemplateError: The template refuses the conversation.
        """
        schemas = offered_tools(tools)
        try:
            written: str = self.tokenizer.get_chat_template(tools=schemas)
            prepared = prepare_messages(messages, self._content_format or detect_content_format(written))
            if any(message["role"] == "developer" for message in prepared) and not _knows_developer_role(
                written
            ):
                prepared = as_system_messages(prepared)
            with _set_template_clock(written, self._moment):
                return cast(
                    str,
                    self.tokenizer.apply_chat_template(
                        prepared,
                        tools=schemas,
                        tokenize=False,
                        **{"add_generation_prompt": prompt, **self.options},
                    ),
                )
        except Exception as error:  # whatever the model's own template comes to
            reason = str(error) or type(error).__name__
            raise TemplateError(
                f"the chat template of {self.model!r} refuses the conversation: {reason}"
            ) from error

    @contextmanager
    def at(self, moment: datetime) -> Generator[None]:
        """Has the template take this moment for now, for as long as it is inside: some write the date."""
        before, self._moment = self._moment, moment
        try:
            yield
        finally:
            self._moment = before

    def ids(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The prompt that vLLM makes of these messages."""
        return self.encode(self.text(messages, tools))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that has its special tokens in it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def next_turn_suffix(
        self, following: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> str:
        """What a prompt has after the end token of the turn before.

        Args:
            following: The messages that came since.
            tools: As in `text`.

        Raises:
            TemplateError: The template writes what came before differently when these follow.
        """
        before = [{"role": "user", "content": "x"}, _find_caller(following)]
        following = without_tool_names(following)
        closed = self.text(before, tools, prompt=False)
        whole = self.text([*before, *following], tools)
        _, end, close = closed.rpartition(self.end)
        if not end or close.strip() or not whole.startswith(closed):
            raise TemplateError(
                f"the chat template of {self.model!r} writes a turn differently when others follow it"
            )
        return close + whole[len(closed) :]

    def extend_prompt(
        self,
        prompt: Sequence[int],
        sampled: Sequence[int],
        following: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """The next turn's prompt: this turn's prompt and sampled ids verbatim, then what follows.

        A turn that was cut off is ended with the end token, which was not sampled.

        Raises:
            TemplateError: See `next_turn_suffix`.
        """
        text = self.next_turn_suffix(following, tools)
        ended = bool(sampled) and sampled[-1] == self.end_id
        return [*prompt, *sampled, *self.encode(text if ended else self.end + text)]

    def find_end(self) -> None:
        """Finds out by which token the template ends a turn, where that is not the tokenizer's end token.

        Raises:
            TemplateError: By none.
        """
        said = "Zebra"
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]
        after = self.text(messages, prompt=False).rpartition(said)[2].strip()
        special = [str(token) for token in self.tokenizer.all_special_tokens]
        ends = sorted((token for token in special if after.startswith(token)), key=len)
        if ends:
            self.end, self.end_id = ends[-1], int(self.tokenizer.convert_tokens_to_ids(ends[-1]))
        elif self.end not in after:
            raise TemplateError(
                f"the chat template of {self.model!r} ends an answer by no special token of the tokenizer, "
                f"whose end token is {self.end!r}, but by {after[:40]!r}"
            )


def offered_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Tools in OpenAI's shape, as requests and templates have them; None where there are none."""
    return [{"type": "function", "function": dict(tool)} for tool in tools] or None


@contextmanager
def _set_template_clock(template: str, moment: datetime | None) -> Generator[None]:
    """Has a template's `strftime_now` tell this moment; transformers compiles each text once."""
    if moment is None or "strftime_now" not in template:
        yield
        return
    from transformers.utils import chat_template_utils

    compiling: Any = chat_template_utils
    known: dict[str, Any] = compiling._compile_jinja_template(template).environment.globals
    before = known["strftime_now"]
    known["strftime_now"] = moment.strftime
    try:
        yield
    finally:
        known["strftime_now"] = before


def _knows_developer_role(template: str) -> bool:
    return '"developer"' in template or "'developer'" in template


def _find_caller(following: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An assistant's message that these can follow: some templates insist on the calls of tool messages."""
    ids = [message.get("tool_call_id") or "call00000" for message in following if message["role"] == "tool"]
    names = [message.get("name") or "tool" for message in following if message["role"] == "tool"]
    calls = [_make_call(i, {"name": name, "arguments": "{}"}) for i, name in zip(ids, names, strict=True)]
    return {"role": "assistant", "content": "x", **({"tool_calls": calls} if calls else {})}


def _make_call(identity: str, function: dict[str, str]) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": function}


def without_tool_names(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as a request has them, in which a tool's answer does not name the tool."""
    return [
        {name: value for name, value in message.items() if name != "name"}
        if message["role"] == "tool"
        else message
        for message in messages
    ]
