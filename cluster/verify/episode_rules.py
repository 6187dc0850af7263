"""What must hold of one episode beside its tokens; each check gives what is wrong, or None."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from cluster.config import VllmPolicy
from cluster.verify.branch_rules import numbering, pairs_in_branches, steps_by_branch
from cluster.verify.report import NotChecked
from cluster.verify.run_context import RunContext
from cluster.verify.token_rules import messages_continue
from workers.environments.agentdojo.rewards import RewardSettings, weigh_metrics
from workers.record_digest import digest_of
from workers.records import EpisodeRecord, Message, StepRecord, episode_id
from workers.state_patches import apply_state_patch

_EARLIEST = 1_600_000_000
"""Seconds since the epoch before which there was no Kumite."""
_SLACK = 3600.0
"""Seconds by which clocks of two machines may differ."""
_ROUNDING = 1.0
"""Seconds by which times taken by different clocks of one machine may differ."""
_MAX_VERSION_LAG = 1
"""Versions that an episode may have moved on to before the driver heard of them."""


def identity(run: RunContext, episode: EpisodeRecord) -> str | None:
    """Whether an episode's id, group, run, environment and model are what they must be."""
    scope = episode.environment
    if episode.split not in (None, "eval"):
        scope = f"{scope}/{episode.split}"
    expected = episode_id(scope, episode.task_id, episode.sample_index)
    if episode.episode_id != expected:
        return f"its id must be {expected}, by its environment, split, task and sample_index"
    group = f"{run.manifest.run_id}/{episode.task_id}"
    if episode.group_id != group and not episode.group_id.startswith(f"{group}/"):
        return f"its group_id is {episode.group_id!r}; it must be, or begin with, {group!r}"
    if episode.run_id != run.manifest.run_id:
        return f"its run_id is {episode.run_id!r}, and the run's {run.manifest.run_id!r}"
    if episode.environment != run.config.environment.name:
        return f"its environment is {episode.environment!r}, and the run's {run.config.environment.name!r}"
    if run.record is not None and episode.model != run.record.model:
        return f"its model is {episode.model!r}, and the run's {run.record.model!r}"
    if episode.sample_index < 0 or episode.attempt < 0:
        return f"its sample_index is {episode.sample_index}, its attempt {episode.attempt}"
    if run.manifest.loop is None and episode.sample_index >= run.config.samples:
        return (
            f"its sample_index is {episode.sample_index}, and the run has {run.config.samples} samples a task"
        )
    if run.manifest.loop is None and episode.split not in (None, run.config.environment.split):
        return f"its split is {episode.split!r}, and the run's {run.config.environment.split!r}"
    return None


def check_digest(episode: EpisodeRecord) -> str | None:
    """Whether an episode is as its worker wrote it.

    Raises:
        NotChecked: It has no digest.
    """
    if episode.digest is None:
        raise NotChecked("no digest is on record")
    return None if digest_of(episode) == episode.digest else "its digest is that of other values"


def versions(run: RunContext, episode: EpisodeRecord) -> str | None:
    """Whether the versions of an episode and its steps agree, and are among the run's."""
    each = [step.policy_version for step in episode.steps]
    if run.config.policies:  # the steps that these have sampled have no version of the run's own
        each = [version for version in each if version is not None] or [None] * bool(each)
    known = [version for version in each if version is not None]
    for own in steps_by_branch(episode).values():
        of_branch = [step.policy_version for step in own if step.policy_version is not None]
        if of_branch != sorted(of_branch):
            return f"they are {each}"
    if any(version < 0 for version in known):
        return f"they are {each}, and none is below 0"
    if each and episode.policy_version != each[0]:
        return f"the episode's is {episode.policy_version}, its first step's {each[0]}"
    is_old = episode.digest is None and episode.last_policy_version is None
    # A turn that failed after its answer had come is no step, and may have been of a later version.
    if each and not is_old and episode.status == "finished" and episode.last_policy_version != each[-1]:
        return f"the episode's last is {episode.last_policy_version}, its last step's {each[-1]}"
    if not isinstance(run.policy, VllmPolicy) or run.record is None:
        return None
    if len(known) < len(each) and not (run.config.policies and not known):
        return f"they are {each}, and the run's policy tells them all"
    spans = [(each.first_version, each.last_version) for each in run.record.sessions]
    for version in known:
        if spans and not any(
            first is None or (first <= version and (last is None or version <= last + _MAX_VERSION_LAG))
            for first, last in spans
        ):
            return f"version {version} is none of the run's, which were {_spans(spans)}"
    return None


def _spans(spans: Sequence[tuple[int | None, int | None]]) -> str:
    return ", ".join(f"{first} to {'?' if last is None else last}" for first, last in spans)


def steps(episode: EpisodeRecord) -> str | None:
    """Whether steps are numbered, follow each other, and are the episode's conversation."""
    own = episode.steps
    indexes = [step.step_index for step in own]
    if indexes != list(range(len(own))):
        return f"its steps are numbered {indexes}"
    finished = episode.status == "finished"
    for step in own:
        if step.action.role != "assistant":
            return f"step {step.step_index}: its action is a message of role {step.action.role!r}"
        if step.done != (finished and step is own[-1]):
            return f"step {step.step_index}: done is {step.done}"
    complaint = numbering(own)
    if complaint is not None:
        return complaint
    for before, step in pairs_in_branches(own):
        seen = [*before.prompt_messages, before.action]
        rest = step.prompt_messages[len(seen) :] if messages_continue(before, step) else []
        if before.observations != rest:
            return (
                f"step {before.step_index}: its observations are not what step {step.step_index} saw after it"
            )
    return _conversation(episode) if own else None


def _conversation(episode: EpisodeRecord) -> str | None:
    """Whether `messages` are what the last step saw, its action, and what it was answered."""
    last = episode.steps[-1]
    whole = [*last.prompt_messages, last.action]
    if episode.status == "finished":
        whole += last.observations
    begins = len(episode.steps[0].prompt_messages)
    is_one = len(steps_by_branch(episode)) == 1
    if is_one and all(messages_continue(before, step) for before, step in pairwise(episode.steps)):
        if len(episode.messages) != len(whole) or episode.messages[begins:] != whole[begins:]:
            return "its messages are not those of its steps"
        if episode.messages[:begins] != whole[:begins]:
            return "its messages do not begin with what its first step saw"
    elif last.action not in episode.messages:
        return "its last action is none of its messages"
    return None


def tool_results(episode: EpisodeRecord) -> str | None:
    """Whether every tool result answers a call, but for those that the task itself came with."""
    own = steps_by_branch(episode)
    first = {branch: len(steps[0].prompt_messages) for branch, steps in own.items()}
    last = first[episode.steps[-1].branch] if episode.steps else len(episode.messages)
    for where, messages, branch in _conversations(episode):
        given = first.get(branch, last) if where != "messages" else last
        called: set[str] = set()
        for place, message in enumerate(messages):
            called |= {call.id for call in message.tool_calls or []}
            if message.role != "tool" or place < given:
                continue
            if not called:
                return f"{where}: a tool result comes before any tool call"
            if message.tool_call_id is not None and message.tool_call_id not in called:
                return f"{where}: a tool result answers {message.tool_call_id!r}, which nobody has called"
    return None


def _conversations(episode: EpisodeRecord) -> Iterator[tuple[str, list[Message], int | None]]:
    for step in episode.steps:
        yield (
            f"step {step.step_index}",
            [*step.prompt_messages, step.action, *step.observations],
            step.branch,
        )
    yield "messages", episode.messages, None


def states(episode: EpisodeRecord, base: Mapping[str, str]) -> str | None:
    """Whether the patches of an episode's state apply.

    Args:
        episode: The episode.
        base: The run's base states, JSON text by id.

    Raises:
        NotChecked: It has none.
    """
    patches = [step.state_patch for step in episode.steps]
    if episode.initial_state_id is not None and episode.initial_state_id not in base:
        if episode.status == "failed":
            raise NotChecked("the base state of a failed episode is not on record")
        return f"its base state {episode.initial_state_id!r} is not in states/"
    if episode.initial_state_patch is None and not any(patch is not None for patch in patches):
        raise NotChecked("the environment shows no state")
    if any(patch is None for patch in patches):
        return "some of its steps have a state_patch, and some have none"
    if episode.initial_state_id is None:
        return _are_patches([episode.initial_state_patch, *patches])
    state: Any = json.loads(base[episode.initial_state_id])
    for name, patch in _named_patches(episode):
        try:
            state = apply_state_patch(state, patch, in_place=True)
        except ValueError as error:
            return f"its {name} does not apply: {str(error)[:200]}"
    return None


def _named_patches(episode: EpisodeRecord) -> Iterator[tuple[str, str]]:
    if episode.initial_state_patch is not None:
        yield "initial_state_patch", episode.initial_state_patch
    for step in episode.steps:
        if step.state_patch is not None:
            yield f"state_patch of step {step.step_index}", step.state_patch


def _are_patches(patches: Sequence[str | None]) -> str | None:
    for patch in patches:
        try:
            parsed: Any = json.loads(patch or "[]")
        except ValueError:
            return "a state_patch is no JSON"
        if not isinstance(parsed, list):
            return "a state_patch is no list of operations"
    return None


def rewards(run: RunContext, episode: EpisodeRecord) -> str | None:
    """Whether rewards are finite, and where a rule says what they are, what it says."""
    reward = episode.reward
    if episode.status == "failed":
        if reward is not None:
            return f"it failed, and its reward is {reward}, not null"
        return None if episode.error is not None else "it failed, and has no error"
    if episode.error is not None:
        return "it has finished, and has an error"
    each = [reward, *(step.reward for step in episode.steps)]
    if any(value is not None and not math.isfinite(value) for value in each):
        return f"a reward is not finite: {each}"
    metrics = cast("dict[str, float | None]", json.loads(episode.metrics))
    if any(value is not None and not math.isfinite(value) for value in metrics.values()):
        return f"a metric is not finite: {episode.metrics[:200]}"
    if run.config.environment.id == "agentdojo" and reward is not None:
        return _agentdojo_reward(run, episode, reward, metrics)
    return None


def _agentdojo_reward(
    run: RunContext, episode: EpisodeRecord, reward: float, metrics: dict[str, float | None]
) -> str | None:
    args = run.config.environment.args
    settings = RewardSettings.model_validate(
        {name: args[name] for name in RewardSettings.model_fields if name in args}
    )
    rubric = settings.rubric()
    if not rubric.weights.keys() <= metrics.keys():
        return f"its metrics lack {', '.join(sorted(rubric.weights.keys() - metrics.keys()))}"
    expected = weigh_metrics(rubric, cast(Any, metrics))
    if rubric.steps:
        expected += metrics.get("step_rewards") or 0.0
        given = [step.reward for step in episode.steps if step.reward is not None]
        if given and abs(sum(given) - reward) > 1e-6:
            return f"its reward is {reward}, and those of its steps come to {sum(given)}"
    return None if abs(expected - reward) <= 1e-6 else f"its reward is {reward}; by its metrics, {expected}"


def times(run: RunContext, episode: EpisodeRecord) -> str | None:
    """Whether times are not negative, add up, and lie within the run's."""
    timings = cast("dict[str, float]", episode.timings.model_dump())
    for name, seconds in timings.items():
        if not (math.isfinite(seconds) and seconds >= 0):
            return f"timings.{name} is {seconds}"
    for name in ("policy", "tools"):
        each = [float(getattr(step, f"{name}_seconds")) for step in episode.steps]
        if not all(math.isfinite(seconds) and seconds >= 0 for seconds in each):
            return f"{name}_seconds of its steps are {each}"
        is_one = len(steps_by_branch(episode)) <= 1  # calls of several branches may have gone on at once
        if (sum(each) if is_one else max(each)) > timings[name] * 1.01 + _ROUNDING:
            said = f"{name}_seconds of its steps come to {sum(each):.3f}"
            return f"{said}, and timings.{name} is {timings[name]:.3f}"
    longest = max(timings, key=timings.__getitem__)
    if timings[longest] > timings["total"] * 1.01 + _ROUNDING:
        return f"timings.{longest} is {timings[longest]:.3f}, and timings.total {timings['total']:.3f}"
    began = episode.started_at
    if not (math.isfinite(began) and _EARLIEST <= began <= time.time() + _SLACK):
        return f"started_at is {began}, which is no moment that the run can have had"
    sessions = run.record.sessions if run.record is not None else []
    if sessions and began < sessions[0].begun.timestamp() - _SLACK:
        return f"started_at is {began}, before the run began"
    ends = [session.ended for session in sessions]
    last = ends[-1] if ends else None
    if last is not None and began > last.timestamp() + _SLACK:
        return f"started_at is {began}, after the run had ended"
    return None


def finish(run: RunContext, episode: EpisodeRecord, step: StepRecord, ends: set[int] | None) -> str | None:
    """Whether a step's finish reason goes with its sampled ids and its action.

    Args:
        run: The run.
        episode: The step's episode.
        step: The step.
        ends: Ids that end a turn. None: they are not known.
    """
    reason, is_vllm = step.finish_reason, isinstance(run.policy, VllmPolicy)
    calls, ids = step.action.tool_calls or [], step.completion_token_ids
    choice = run.sampling(episode, step).tool_choice or run.environment_sampling.get("tool_choice") or "auto"
    if reason not in ("stop", "length", "tool_calls", None):
        return f"its finish reason is {reason!r}, which is none"
    if reason is None:
        return "it has no finish reason, and the run's policy gives one" if is_vllm else None
    if reason == "tool_calls" and not calls and choice == "auto":
        return "its finish reason is 'tool_calls', and it calls none"
    if calls and is_vllm and not run.is_exact and choice == "auto" and reason != "tool_calls":
        return f"it calls tools, and its finish reason is {reason!r}"
    well_formed = all(_is_object(call.function.arguments) for call in calls)
    if calls and run.is_exact and reason == "stop" and well_formed:
        return "it calls tools, and its finish reason is 'stop'"
    sampled = len(ids) if ids is not None else step.usage.completion_tokens if step.usage else None
    most = run.max_tokens(episode, step)
    if most is not None and sampled is not None and sampled > most and is_vllm:
        return f"{sampled} tokens were sampled, and {most} are allowed"
    if reason == "length" and episode.status == "finished" and not episode.is_truncated:
        return "it was cut off, and its episode's is_truncated is false"
    if ids is None or ends is None or run.extra_body(episode).get("ignore_eos"):
        return None
    if reason == "length" and ids and ids[-1] in ends:
        return "its finish reason is 'length', and its sampled ids end with an end token"
    cut_early = run.extra_body(episode, step).get("repetition_detection")
    if reason == "length" and is_vllm and most is not None and len(ids) < most and not cut_early:
        room = getattr(run.policy, "max_model_len", None)
        if room is not None and len(step.prompt_token_ids or []) + len(ids) < room - 1:
            return f"its finish reason is 'length' after {len(ids)} of {most} tokens"
    by_token = reason == "stop" or (reason == "tool_calls" and run.is_exact)
    if by_token and not run.stop_strings(episode, step) and not (ids and ids[-1] in ends):
        return f"its finish reason is {reason!r}, and its sampled ids do not end with an end token"
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
