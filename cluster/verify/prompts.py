"""What the ids of a step's prompt should be, and what is wrong where they are others."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cluster.cache import cache_dir
from cluster.config import VllmPolicy
from cluster.errors import RunError
from cluster.policy.models import packaged_model
from cluster.policy.models.description import tokenizer_digest
from cluster.verify.harmony import harmony_prompt
from cluster.verify.report import NotChecked
from cluster.verify.run_context import RunContext
from cluster.verify.token_rules import prompt_continues
from workers.errors import TemplateError
from workers.policy.chat_template import ChatTemplate
from workers.policy.content_format import ContentFormat
from workers.records import EpisodeRecord, Message, StepRecord
from workers.settings import PolicyEndpoint

_OWN_RENDERERS = ("deepseek_v32", "deepseek_v4", "kimi_k3", "inkling", "cohere2_vision", "cohere_command")
"""Model types whose conversations vLLM renders by code of its own."""
_NO_TOKENIZER = "the model's tokenizer is not known: give --tokenizer"


class Prompts:
    """Computes a run's prompts again.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._templates: dict[str, ChatTemplate | NotChecked] = {}
        self._renderers: dict[str, Any] = {}

    def check(self, episode: EpisodeRecord, index: int) -> str | None:
        """What is wrong with the prompt of a step, or None.

        Raises:
            NotChecked: That cannot be told.
        """
        step = episode.steps[index]
        prompt = step.prompt_token_ids or []
        if any(_has_other_parts(message) for message in step.prompt_messages):
            raise NotChecked("a message has parts other than text")
        if self._run.is_harmony and not self._run.is_exact:
            return self._check_harmony(episode, step)
        template = self.template(episode)
        nearest: list[int] | None = None
        complaint: str | None = None
        for candidate in self._candidates(episode, index, template):
            try:
                expected = candidate()
            except TemplateError as error:
                complaint = complaint or str(error)
                continue
            if expected == prompt:
                return None
            if nearest is None or _agreement(expected, prompt) > _agreement(nearest, prompt):
                nearest = expected
        self._excuse(episode, step, template)
        return complaint if nearest is None else first_difference(prompt, nearest, template)

    def template(self, episode: EpisodeRecord) -> ChatTemplate:
        """The template of an episode's requests, with what these told it.

        Raises:
            NotChecked: It cannot be had.
            RunError: The tokenizer that the user named cannot be had.
        """
        extra = self._run.extra_body(episode)
        options = _template_options(self._run, extra)
        given = extra.get("chat_template")
        key = json.dumps([options, given], sort_keys=True, default=str)
        if key not in self._templates:
            try:
                self._templates[key] = self._build_template(options, given)
            except NotChecked as reason:
                self._templates[key] = reason
        made = self._templates[key]
        if isinstance(made, NotChecked):
            raise made
        return made

    def renderer(self, episode: EpisodeRecord) -> Any:
        """The renderer of a run whose tokens are exact.

        Raises:
            NotChecked: It cannot be made.
        """
        sampling = self._run.sampling(episode)
        key = sampling.model_dump_json()
        if key not in self._renderers:
            try:
                self._renderers[key] = self._build_renderer(episode)
            except NotChecked as reason:
                self._renderers[key] = reason
        made = self._renderers[key]
        if isinstance(made, NotChecked):
            raise made
        return made

    def _build_renderer(self, episode: EpisodeRecord) -> Any:
        from workers.policy.template_renderer import make_renderer

        policy: Any = self._run.policy
        model = self._model()
        template = self._template_or_none()
        extra = self._run.extra_body(episode)
        endpoint = PolicyEndpoint(
            kind="openai",
            model=policy.model,
            tokens="exact",
            tokenizer=model,
            chat_template=template if isinstance(template, Path) else self._as_file(template),
            renderer=getattr(policy, "renderer", None),
            tool_parser=self._parsers[0],
            reasoning_parser=self._parsers[1],
            template_options=getattr(policy, "engine", {}).get("default_chat_template_kwargs") or {},
            sampling=self._run.sampling(episode).model_copy(update={"extra_body": extra}),
        )
        try:
            return make_renderer(endpoint, extra.get("stop_token_ids") or ())
        except Exception as error:
            raise NotChecked(f"the run's renderer cannot be made here: {error}") from error

    @property
    def _parsers(self) -> tuple[str | None, str | None]:
        """The parsers of a run whose tokens are exact."""
        if isinstance(self._run.policy, VllmPolicy):
            return self._run.parsers
        return getattr(self._run.policy, "tool_parser", "hermes"), None

    def _as_file(self, template: str | None) -> Path | None:
        """The template in place of the model's own, where the config names one: a recorded text is that."""
        if template is None or getattr(self._run.policy, "chat_template", None) is None:
            return None
        folder = cache_dir() / "templates"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{hashlib.sha256(template.encode()).hexdigest()[:16]}.jinja"
        if not path.is_file():
            path.write_text(template, encoding="utf-8")
        return path

    def _template_or_none(self) -> Path | str | None:
        try:
            return self._run.template()
        except FileNotFoundError as error:
            raise NotChecked(str(error)) from error

    def _model(self) -> str:
        model = self._run.model
        if model is None:
            raise NotChecked(_NO_TOKENIZER)
        return str(packaged_model.folder()) if model == packaged_model.NAME else model

    def _build_template(self, options: dict[str, Any], given: Any) -> ChatTemplate:
        model = self._model()
        template = given if isinstance(given, str) else self._template_or_none()
        engine = getattr(self._run.policy, "engine", {})
        form = engine.get("chat_template_content_format")
        known: ContentFormat | None = form if form in ("string", "openai") else None
        try:
            return ChatTemplate(model, template, options, known)
        except TemplateError as error:
            if self._run.tokenizer is not None:
                raise RunError(f"--tokenizer: {error}") from error
            raise NotChecked(str(error)) from error

    def _candidates(
        self, episode: EpisodeRecord, index: int, template: ChatTemplate
    ) -> Iterator[Callable[[], list[int]]]:
        """Ways in which the prompt can have been made, the likeliest first."""
        step = episode.steps[index]
        moments = self._run.moments(episode)
        if self._run.is_exact:
            for moment in moments:
                yield from self._by_renderer(episode, index, moment)
        messages = _plain_messages(step.prompt_messages)
        before = episode.steps[index - 1] if index else None
        if step.parent_step is not None and 0 <= step.parent_step < index:
            before = episode.steps[step.parent_step]
        for moment in moments:

            def rendered(moment: datetime = moment) -> list[int]:
                with template.at(moment):
                    return template.ids(messages, episode.tools_of(step))

            yield rendered
        if before is not None and prompt_continues(before, step):
            # What the policy wrote stands as it wrote it, which need not be as the template would write it.
            following = step.prompt_messages[len(before.prompt_messages) + 1 :]

            def extended(before: StepRecord = before) -> list[int]:
                return template.extend_prompt(
                    before.prompt_token_ids or [],
                    before.completion_token_ids or [],
                    _plain_messages(following),
                    episode.tools_of(step),
                )

            yield extended

    def _by_renderer(
        self, episode: EpisodeRecord, index: int, moment: datetime
    ) -> Iterator[Callable[[], list[int]]]:
        renderer = self.renderer(episode)
        messages = with_tool_names(_plain_messages(episode.steps[index].prompt_messages))
        tools = [
            {"type": "function", "function": tool} for tool in episode.tools_of(episode.steps[index])
        ] or None
        own = getattr(renderer, "_template", None)

        def clock() -> Any:
            _set_date(renderer, moment)
            return own.at(moment) if isinstance(own, ChatTemplate) else nullcontext()

        def whole() -> list[int]:
            with clock():
                return list(renderer.render(messages, tools=tools, add_generation_prompt=True).token_ids)

        for earlier in reversed(episode.steps[:index]):
            seen = len(earlier.prompt_messages) + 1

            def bridged(earlier: StepRecord = earlier, seen: int = seen) -> list[int]:
                prompt, sampled = earlier.prompt_token_ids or [], earlier.completion_token_ids or []
                with clock():
                    made = renderer.bridge_to_next_turn(prompt, sampled, messages[seen:], tools=tools)
                return list(made.token_ids) if made is not None else whole()

            if 0 < seen < len(messages):
                yield bridged
        yield whole

    def _check_harmony(self, episode: EpisodeRecord, step: StepRecord) -> str | None:
        effort = self._run.extra_body(episode).get("reasoning_effort")
        prompt = step.prompt_token_ids or []
        for moment in self._run.moments(episode):
            expected = harmony_prompt(
                _plain_messages(step.prompt_messages), episode.tools_of(step), effort, moment
            )
            if expected == prompt:
                return None
        return "it is not what Harmony makes of the messages"

    def _excuse(self, episode: EpisodeRecord, step: StepRecord, template: ChatTemplate) -> None:
        """Says why a prompt that is another than expected may be right even so.

        Raises:
            NotChecked: It may be.
        """
        if episode.status == "failed" and not episode.tools and episode.digest is None:
            raise NotChecked("the episode failed, and the tools that it was offered are not on record")
        record, folder = self._run.record, self._run.tokenizer_folder
        if record is not None and record.tokenizer_sha256 and folder is not None:
            now = tokenizer_digest(folder)
            if now is not None and now != record.tokenizer_sha256:
                raise NotChecked("the model's tokenizer is another than at the time of the run")
        engine: dict[str, Any] = getattr(self._run.policy, "engine", {})
        mode = engine.get("tokenizer_mode")
        if mode not in (None, "auto", "hf", "slow"):
            raise NotChecked(f"vLLM renders by code of its own with tokenizer_mode {mode!r}")
        kind = self._run.model_type
        if kind in _OWN_RENDERERS:
            raise NotChecked(f"vLLM renders a model of type {kind} by code of its own")
        if folder is not None and (folder / "tekken.json").is_file() and not self._run.is_exact:
            raise NotChecked("vLLM renders a model with a tekken.json by mistral_common")
        if _writes_time(template, step, episode.tools_of(step)):
            raise NotChecked("the model's template writes the time of day")


def first_difference(got: Sequence[int], expected: Sequence[int], template: ChatTemplate) -> str:
    """Where two prompts part, in words."""
    place = _agreement(got, expected)
    shown = [repr(template.decode(ids[place : place + 8])) for ids in (got, expected)]
    return f"differs from token {place} on: {shown[0]} in place of {shown[1]}"


def with_tool_names(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages as verifiers hands them to a renderer: a tool's answer has the tool's name."""
    names = {
        call["id"]: call["function"]["name"]
        for each in messages
        for call in cast("list[Any]", each.get("tool_calls") or [])
    }
    return [
        {**each, "name": names[each["tool_call_id"]]}
        if each["role"] == "tool" and each.get("tool_call_id") in names
        else each
        for each in messages
    ]


def _template_options(run: RunContext, extra: dict[str, Any]) -> dict[str, Any]:
    """What vLLM tells the template besides, of a request with these further arguments."""
    engine: dict[str, Any] = getattr(run.policy, "engine", {})
    defaults = cast("dict[str, Any]", engine.get("default_chat_template_kwargs") or {})
    told = {**defaults, **cast("dict[str, Any]", extra.get("chat_template_kwargs") or {})}
    effort = extra.get("reasoning_effort")
    if effort is not None and "enable_thinking" not in told:
        told["enable_thinking"] = effort != "none"
    for name in ("add_generation_prompt", "continue_final_message", "documents", "reasoning_effort"):
        if extra.get(name) is not None:
            told[name] = extra[name]
    return {name: value for name, value in told.items() if name not in ("tokenize", "chat_template")}


def _writes_time(template: ChatTemplate, step: StepRecord, tools: list[dict[str, Any]]) -> bool:
    texts: list[str] = []
    for hour in (1, 22):
        with template.at(datetime(2026, 1, 1, hour, hour)):
            texts.append(template.text(_plain_messages(step.prompt_messages), tools))
    return texts[0] != texts[1]


def _set_date(renderer: Any, moment: datetime) -> None:
    """Has a renderer that writes the date write this one."""
    config = getattr(renderer, "config", None)
    if hasattr(config, "conversation_start_date"):
        object.__setattr__(config, "conversation_start_date", moment.strftime("%Y-%m-%d"))


def _has_other_parts(message: Message) -> bool:
    """Whether a message's content is the JSON text of parts that are not all text."""
    content = message.content or ""
    if not content.startswith("[{"):
        return False
    try:
        parts: Any = json.loads(content)
    except ValueError:
        return False
    return all(isinstance(part, dict) and "type" in part for part in parts) and any(
        part["type"] != "text" for part in parts
    )


def _agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two prompts have in common at their beginnings."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]
