"""An episode's branches, as a check sees them: which step goes on from which."""

from collections.abc import Iterator, Sequence

from workers.records import EpisodeRecord, StepRecord


def steps_by_branch(episode: EpisodeRecord) -> dict[int | None, list[StepRecord]]:
    """An episode's steps, by their branches."""
    branches: dict[int | None, list[StepRecord]] = {}
    for step in episode.steps:
        branches.setdefault(step.branch, []).append(step)
    return branches


def previous_in_branch(steps: Sequence[StepRecord], index: int) -> StepRecord | None:
    """The step before one in the same branch."""
    branch = steps[index].branch
    return next((step for step in reversed(steps[:index]) if step.branch == branch), None)


def pairs_in_branches(steps: Sequence[StepRecord]) -> Iterator[tuple[StepRecord, StepRecord]]:
    """Each step with the one before it in the same branch."""
    for index, step in enumerate(steps):
        before = previous_in_branch(steps, index)
        if before is not None:
            yield before, step


def numbering(own: Sequence[StepRecord]) -> str | None:
    """Whether branches are numbered as they begin, and each step comes after the one that it goes on from."""
    begun = 0
    for step in own:
        if (step.branch is None) != (step.agent is None):
            return f"step {step.step_index}: its agent is {step.agent!r}, and its branch {step.branch}"
        parent = step.parent_step
        if parent is not None and not 0 <= parent < step.step_index:
            return f"step {step.step_index}: its parent_step is {parent}, which is no step before it"
        if step.branch is None or step.branch < begun:
            before = previous_in_branch(own, step.step_index)
            if step.branch is not None and (before is None or parent != before.step_index):
                return (
                    f"step {step.step_index}: its parent_step is {parent}, not the one before in its branch"
                )
            continue
        if step.branch != begun:
            return f"step {step.step_index}: its branch is {step.branch}, and the next to begin is {begun}"
        begun += 1
    return None
