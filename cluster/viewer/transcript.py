"""One episode as its page shows it: what each step read, did and changed."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.observe.token_texts import TokenTexts, count_kept_tokens, step_before
from cluster.viewer.expected_calls import ExpectedCall, match_calls
from cluster.viewer.file_changes import diff_files, has_files
from cluster.viewer.injections import (
    AGENTDOJO_SUITES,
    TaskCalls,
    find_spans,
    find_task_calls,
    injected_texts,
)
from cluster.viewer.state_tree import StateHistory, load_base_state
from workers.records import EpisodeRecord, Message, StepRecord

MAX_TEXT_LENGTH = 20_000
"""Characters of a text that a page gets at first; the rest is a click away."""
_MAX_TOKENS = 4_000
"""Prompt tokens of a step that a page gets."""


@dataclass
class Transcript:
    """An episode, and what is found out about it once for all its pages.

    Args:
        episode: The episode.
        run_dir: The run's folder.
    """

    episode: EpisodeRecord
    run_dir: Path
    history: StateHistory | None = None
    injected: list[str] = field(default_factory=list[str])
    calls: TaskCalls | None = None
    """The calls of the tasks' ground truths. None: AgentDojo is being loaded to tell."""
    notice: str | None = None

    def __post_init__(self) -> None:
        episode = self.episode
        if episode.initial_state_id is None:
            return
        try:
            base = load_base_state(self.run_dir, episode.initial_state_id)
            if base is None:
                self.notice = f"the base state {episode.initial_state_id} is not in this run's files"
                return
            self.history = StateHistory(base, episode)
        except Exception as error:  # noqa: BLE001 - a patch that does not fit, or a file that is damaged
            self.notice = f"the environment's state cannot be shown: {error}"
            return
        if episode.attack is not None and episode.injection_task is not None:
            self.injected = injected_texts(base, self.history.initial)

    def _find_calls(self) -> None:
        episode = self.episode
        if self.calls is not None:
            return
        if self.history is None or episode.suite is None:
            self.calls = TaskCalls([], [])
        elif AGENTDOJO_SUITES.is_loaded():
            attacked = episode.attack is not None
            self.calls = find_task_calls(
                _read_benchmark_version(self.run_dir),
                episode.suite,
                episode.injection_task if attacked else None,
                episode.user_task,
                self.history.initial,
                self.injected,
            )

    def head(self) -> dict[str, Any]:
        """The episode without its steps' contents, and a line for each step."""
        episode = self.episode
        self._find_calls()
        head = episode.model_dump(exclude={"messages", "steps", "tool_schemas", "initial_state_patch"})
        head["metrics"] = _parse_json_or_text(episode.metrics)
        head["tools"] = _parse_json_or_text(episode.tool_schemas)
        head["details"] = None if episode.details is None else _parse_json_or_text(episode.details)
        head["connections"] = (
            None if episode.connections is None else _parse_json_or_text(episode.connections)
        )
        head["has_state"] = self.history is not None
        head["has_files"] = self.history is not None and has_files(self.history.initial)
        head["has_tokens"] = any(step.completion_token_ids is not None for step in episode.steps)
        head["notice"] = self.notice
        head["injected"] = [_truncate_text(text) for text in self.injected]
        own, injected = self.expected_calls()
        head["own_calls"] = [one.describe() for one in own]
        head["wanted_calls"] = [one.describe() for one in injected]
        head["wanted_pending"] = self.calls is None
        head["opening"] = [self._message_in_full(message) for message in self._opening_messages()]
        head["outline"] = [self._step_line(step) for step in episode.steps]
        if not episode.steps:
            head["opening"] = [self._message_in_full(message) for message in episode.messages]
        return head

    def expected_calls(self) -> tuple[list[ExpectedCall], list[ExpectedCall]]:
        """The calls of the user's task and of the injection, with the steps that made them.

        Empty while AgentDojo is being loaded.
        """
        self._find_calls()
        calls = self.calls or TaskCalls([], [])
        return match_calls(calls.own, self.episode), match_calls(calls.injected, self.episode)

    def steps(self, first: int, count: int, texts: TokenTexts) -> list[dict[str, Any]]:
        """These steps in full, but for what is very long."""
        self._find_calls()
        return [
            self._step_in_full(place, texts) for place in range(first, min(first + count, self.step_count))
        ]

    @property
    def step_count(self) -> int:
        """How many steps the episode has."""
        return len(self.episode.steps)

    def text_of(self, step: int, part: str) -> str | None:
        """A text in full; None if there is none.

        Args:
            step: The step; -1: what was there before it.
            part: `action`, `reasoning`, `call.N`, `observation.N` or `opening.N`.
        """
        name, _, place = part.partition(".")
        if not -1 <= step < self.step_count or (place and not place.isdecimal()):
            return None
        at = int(place or 0)
        messages = self._opening_messages() if step < 0 else self.episode.steps[step].observations
        if name in ("opening", "observation"):
            return messages[at].content if at < len(messages) else None
        if step < 0:
            return None
        action = self.episode.steps[step].action
        if name == "call":
            calls = action.tool_calls or []
            return calls[at].function.arguments if at < len(calls) else None
        return {"action": action.content, "reasoning": action.reasoning_content}.get(name)

    def _opening_messages(self) -> list[Message]:
        steps = self.episode.steps
        return steps[0].prompt_messages if steps else self.episode.messages

    def _step_line(self, step: StepRecord) -> dict[str, Any]:
        calls = step.action.tool_calls or []
        return {
            "calls": [call.function.name for call in calls[:8]],
            "reward": step.reward,
            "policy_seconds": step.policy_seconds,
            "tools_seconds": step.tools_seconds,
            "version": step.policy_version,
            "tokens": step.usage.completion_tokens if step.usage else None,
            "finish_reason": step.finish_reason,
            "injected_call": any(
                self._is_wanted(call.function.name, call.function.arguments) for call in calls
            ),
            "changes_state": bool(step.state_patch and step.state_patch != "[]"),
            "agent": step.agent,
            "branch": step.branch,
            "parent": step.parent_step,
        }

    def file_changes(self, step: int | None) -> list[dict[str, Any]]:
        """The files that a step changed; of None, those that the whole episode changed."""
        assert self.history is not None
        if step is not None:
            return diff_files(self.history.after(step - 1), self.history.after(step))
        return diff_files(self.history.initial, self.history.after(self.step_count - 1))

    def _is_wanted(self, name: str, arguments: str) -> bool:
        return self.calls is not None and any(
            call.is_made_by(name, arguments) for call in self.calls.injected
        )

    def _step_in_full(self, place: int, texts: TokenTexts) -> dict[str, Any]:
        step = self.episode.steps[place]
        answers = {
            message.tool_call_id: at for at, message in enumerate(step.observations) if message.tool_call_id
        }
        calls: list[dict[str, Any]] = []
        for call in step.action.tool_calls or []:
            name, arguments = call.function.name, call.function.arguments
            shown: dict[str, Any] = {"id": call.id, "name": name, "answer": answers.get(call.id)}
            shown["arguments"] = _truncate_text(arguments)
            shown["injected"] = self._is_wanted(name, arguments)
            calls.append(shown)
        return {
            **self._step_line(step),
            "index": step.step_index,
            "content": _truncate_text(step.action.content),
            "reasoning": _truncate_text(step.action.reasoning_content),
            "calls": calls,
            "observations": [self._message_in_full(message) for message in step.observations],
            "context": self._rewritten_context(place),
            "done": step.done,
            "no_logprobs": step.no_logprobs,
            "usage": step.usage.model_dump() if step.usage else None,
            "tokens": self._token_list(place, texts),
        }

    def _rewritten_context(self, place: int) -> list[dict[str, Any]] | None:
        """The prompt's messages, where it does not go on from the step before; None where it does."""
        parent = step_before(self.episode, place)
        if parent is None and place == 0:
            return None
        now = self.episode.steps[place]
        if parent is None:  # another conversation of the agent's begins
            return [self._message_in_full(message) for message in now.prompt_messages]
        before = self.episode.steps[parent]
        expected = [*before.prompt_messages, before.action, *before.observations]
        shown = now.prompt_messages
        if len(shown) == len(expected) and all(
            (one.role, one.content or "") == (other.role, other.content or "")
            for one, other in zip(expected, shown, strict=True)
        ):
            return None
        return [self._message_in_full(message) for message in shown]

    def _message_in_full(self, message: Message) -> dict[str, Any]:
        shown = {"role": message.role, **_truncate_with_spans(self.injected, message.content)}
        if message.reasoning_content:
            shown["reasoning"] = _truncate_text(message.reasoning_content)
        if message.tool_calls:
            shown["calls"] = [
                {"name": call.function.name, "arguments": _truncate_text(call.function.arguments)}
                for call in message.tool_calls
            ]
        return shown

    def _token_list(self, place: int, texts: TokenTexts) -> dict[str, Any] | None:
        step = self.episode.steps[place]
        if step.prompt_token_ids is None and step.completion_token_ids is None:
            return None
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        same, goes_on = count_kept_tokens(self.episode, place)
        new = prompt[same : same + _MAX_TOKENS]
        return {
            "kept": same,
            "goes_on": goes_on,
            "prompt": new,
            "prompt_texts": texts.decode_ids(new),
            "prompt_left_out": len(prompt) - same - len(new),
            "sampled": sampled,
            "sampled_texts": texts.decode_ids(sampled),
            "logprobs": step.completion_logprobs,
        }


def _truncate_text(text: str | None) -> dict[str, Any] | None:
    return None if text is None else {"text": text[:MAX_TEXT_LENGTH], "length": len(text)}


def _truncate_with_spans(injected: list[str], text: str | None) -> dict[str, Any]:
    """A message's text, cut, with the injected parts; one beyond the cut is counted."""
    spans = find_spans(text or "", injected)
    shown = [[start, min(end, MAX_TEXT_LENGTH)] for start, end in spans if start < MAX_TEXT_LENGTH]
    return {"content": _truncate_text(text), "injected": shown, "injected_beyond": len(spans) - len(shown)}


def _parse_json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_benchmark_version(run_dir: Path) -> str:
    """The version of the benchmark that the run's config names, read without the environment."""
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        return str(config["environment"]["args"]["version"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return "v1.2.2"
