"""Why an episode has its score, in a few lines: what `kumite show RUN EPISODE_ID` ends with."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from cluster.observe.printing import Line, escape_invisible
from cluster.viewer.expected_calls import ExpectedCall
from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.transcript import Transcript
from workers.records import EpisodeRecord

_OUTCOMES: dict[tuple[str, float | None], str] = {
    ("utility", 1.0): "the user's task is done",
    ("utility", 0.0): "the user's task is not done",
    ("attack_success", 1.0): "the attack has succeeded",
    ("attack_success", 0.0): "the attack has failed",
}


def explain_score(episode: EpisodeRecord, run_dir: Path) -> Iterator[Line]:
    """The reasons of an episode's score, where the environment lets them be told.

    Of AgentDojo, the calls that the tasks' ground truths make, and the steps that made them; of hidden tests,
    those that failed. Nothing for other episodes.

    Args:
        episode: The episode.
        run_dir: The run's folder, for the states that the episode refers to.
    """
    lines = [*_failed_tests(episode)]
    if episode.suite is not None and episode.initial_state_id is not None:
        AGENTDOJO_SUITES.wait()
        own, injected = Transcript(episode, run_dir).expected_calls()
        metrics: dict[str, Any] = json.loads(episode.metrics)
        for name, title, calls in (
            ("utility", "its ground truth", own),
            ("attack_success", "the injection", injected),
        ):
            lines += _describe_calls(_OUTCOMES.get((name, metrics.get(name))), title, calls)
    if lines:
        yield Line("")
        yield Line("why:", style="bold")
        yield from lines


def _describe_calls(outcome: str | None, title: str, calls: Sequence[ExpectedCall]) -> Iterator[Line]:
    if outcome is None:
        return
    yield Line(f"{outcome}; {title} makes these calls:" if calls else outcome, 2)
    for expected in calls:
        arguments = json.dumps(expected.call.arguments, ensure_ascii=False, default=str)
        made = "not made"
        if expected.step is not None:
            made = f"made at step {expected.step}"
        elif expected.other_step is not None:
            made = f"made with other arguments at step {expected.other_step}"
        style = "green" if expected.step is not None else "yellow"
        yield Line(escape_invisible(f"{expected.call.function} {arguments}: {made}"), 4, style)


def _failed_tests(episode: EpisodeRecord) -> Iterator[Line]:
    details: Any = json.loads(episode.details or "null")
    failures: Any = cast(dict[str, Any], details).get("failures") if isinstance(details, dict) else None
    for name, said in cast(dict[str, Any], failures).items() if isinstance(failures, dict) else ():
        yield Line(escape_invisible(f"test {name} failed: {said}"), 2, "red")
