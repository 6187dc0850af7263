"""The calls that would have solved an AgentDojo task, and which of them the policy made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.viewer.injections import WantedCall
from workers.records import EpisodeRecord, FunctionCall


@dataclass(frozen=True)
class ExpectedCall:
    """A call of a task's ground truth, and whether the policy made it."""

    call: WantedCall
    step: int | None
    """Place of the first step that made it. None: none did."""
    other_step: int | None
    """Place of the first step that called the same tool with other arguments, where `step` is None."""

    def describe(self) -> dict[str, Any]:
        """Describes the call for the page."""
        return {
            "name": self.call.function,
            "arguments": self.call.arguments,
            "step": self.step,
            "other_step": self.other_step,
        }


def match_calls(expected: Sequence[WantedCall], episode: EpisodeRecord) -> list[ExpectedCall]:
    """Each of the expected calls with the step that made it.

    Args:
        expected: The calls.
        episode: The episode.
    """
    made = list(_made_calls(episode))
    found: list[ExpectedCall] = []
    for call in expected:
        step = next((at for at, one in made if call.is_made_by(one.name, one.arguments)), None)
        other = next((at for at, one in made if one.name == call.function), None) if step is None else None
        found.append(ExpectedCall(call, step, other))
    return found


def _made_calls(episode: EpisodeRecord) -> Iterator[tuple[int, FunctionCall]]:
    for place, step in enumerate(episode.steps):
        for call in step.action.tool_calls or []:
            yield place, call.function
