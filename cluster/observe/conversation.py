"""An episode as a reader wants it: the conversation, the tools' answers, rewards, and why it failed."""

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from cluster.observe.printing import Line, escape_invisible
from workers.records import EpisodeError, EpisodeRecord, Message, StepRecord

_STYLES = {"system": "dim", "user": "cyan", "tool": "", "assistant": "green"}


def render_episode(episode: EpisodeRecord) -> Iterator[Line]:
    """What `kumite show RUN EPISODE_ID` prints, line by line."""
    yield from _head_lines(episode)
    shown: list[Message] = []
    for step, following in zip_longest(episode.steps, episode.steps[1:]):
        yield from _prompt_lines(step, shown)
        yield from _step_lines(step)
        shown = [*step.prompt_messages, step.action]
        if step.observations:
            yield from _observation_lines(step)
        shown += step.observations
        if following is None and not step.done:
            yield Line("")
            yield Line("the episode failed after this step", style="yellow")
    if not episode.steps:
        yield from _message_list_lines(episode.messages)
    if episode.error is not None:
        yield from _error_lines(episode.error)


def _head_lines(episode: EpisodeRecord) -> Iterator[Line]:
    failed = episode.status == "failed"
    yield Line(f"episode {episode.episode_id}  {episode.task_id}", style="bold")
    reward = "no reward" if episode.reward is None else f"reward {episode.reward:g}"
    ending = f", ended by {episode.stop_reason}" if episode.stop_reason else ""
    truncated = ", a turn was cut off by a token limit" if episode.is_truncated else ""
    yield Line(f"{episode.status}, {reward}{ending}{truncated}", style="red" if failed else "")
    metrics = {name: value for name, value in json.loads(episode.metrics).items() if value is not None}
    if metrics:
        yield Line("metrics: " + ", ".join(f"{name} {value:g}" for name, value in metrics.items()))
    facts = {
        "sample": str(episode.sample_index),
        "attempt": str(episode.attempt) if episode.attempt > 1 else None,
        "split": episode.split,
        "attack": episode.attack,
        "defense": episode.defense,
        "reward_spec": episode.reward_spec,
        "model": episode.model,
        "version": _describe_versions(episode),
        "seconds": f"{episode.timings.total:.1f}",
        "tokens": f"{episode.usage.prompt_tokens:,} prompt, {episode.usage.completion_tokens:,} sampled",
        "worker": episode.worker_id,
    }
    yield Line(", ".join(f"{name} {value}" for name, value in facts.items() if value), style="dim")


def _describe_versions(episode: EpisodeRecord) -> str | None:
    first, last = episode.policy_version, episode.last_policy_version
    if first is None:
        return None
    return str(first) if last in (None, first) else f"{first} to {last}"


def _prompt_lines(step: StepRecord, shown: Sequence[Message]) -> Iterator[Line]:
    """What the policy was sent that is not shown yet; all of it where the environment has rewritten it."""
    prompt = step.prompt_messages
    before = len(shown)
    if prompt[:before] == list(shown):
        yield from _message_list_lines(prompt[before:])
        return
    yield Line("")
    yield Line("the environment changed the conversation before this step; it is now:", style="yellow")
    yield from _message_list_lines(prompt)


def _step_lines(step: StepRecord) -> Iterator[Line]:
    facts = [f"step {step.step_index}"]
    if step.reward is not None:
        facts.append(f"reward {step.reward:g}")
    if step.policy_version is not None:
        facts.append(f"version {step.policy_version}")
    if step.usage is not None and step.usage.completion_tokens:
        facts.append(f"{step.usage.completion_tokens:,} tokens sampled")
    if step.finish_reason == "length":
        facts.append("cut off by the token limit")
    yield Line("")
    yield Line(", ".join(facts), style="bold")
    yield from _message_lines(step.action)


def _observation_lines(step: StepRecord) -> Iterator[Line]:
    calls = [call.id for call in step.action.tool_calls or []]
    errors = dict(zip(calls, step.tool_errors or [], strict=False))
    names = {call.id: call.function.name for call in step.action.tool_calls or []}
    for message in step.observations:
        if message.role != "tool":
            yield from _message_lines(message)
            continue
        failed = errors.get(message.tool_call_id or "")
        what = {True: "error of", False: "result of", None: "answer of"}[failed]
        yield Line(f"{what} {escape_invisible(names.get(message.tool_call_id or '', 'a tool'))}:", 2, "dim")
        yield Line(_format_text(message.content), 4, "red" if failed else _STYLES["tool"])


def _message_list_lines(messages: Sequence[Message]) -> Iterator[Line]:
    for message in messages:
        yield Line("")
        yield from _message_lines(message)


def _message_lines(message: Message) -> Iterator[Line]:
    style = _STYLES.get(message.role, "")
    yield Line(f"{message.role}:", 2, "dim")
    if message.reasoning_content:
        yield Line("(reasoning)", 4, "dim")
        yield Line(_format_text(message.reasoning_content), 4, "dim italic")
    if message.content is not None or not message.tool_calls:
        yield Line(_format_text(message.content), 4, style)
    for call in message.tool_calls or []:
        yield Line(
            f"calls {escape_invisible(call.function.name)} {_format_arguments(call.function.arguments)}",
            4,
            "magenta",
        )


def _format_arguments(text: str) -> str:
    """A call's arguments, spaced out where they are JSON; else as the policy wrote them."""
    try:
        return escape_invisible(json.dumps(json.loads(text), ensure_ascii=False))
    except (ValueError, RecursionError):
        return f"(not JSON) {_format_text(text)}"


def _format_text(content: str | None) -> str:
    if content is None:
        return "(nothing)"
    return escape_invisible(content) if content else "(empty text)"


def _error_lines(error: EpisodeError) -> Iterator[Line]:
    yield Line("")
    yield Line(f"failed in stage {error.stage} ({error.kind}): {error.type}", style="bold red")
    yield Line(_format_text(error.message), 2, "red")
    traceback: str | None = getattr(error, "traceback", None)
    if traceback:
        yield Line(escape_invisible(traceback), 2, "dim")
