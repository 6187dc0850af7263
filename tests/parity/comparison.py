"""Both sides of every episode, side by side."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tests.parity.episode import Played, Setting, Task, agentdojo_plays
from tests.parity.ours import Key, Ours, ours


@dataclass
class Comparison:
    """What was compared, and what was found to differ."""

    episodes: int = 0
    user_tasks: set[str] = field(default_factory=set)
    injection_tasks: set[str] = field(default_factory=set)
    """The tasks that were played, each at least once."""
    solved: Counter[str] = field(default_factory=Counter)
    """Episodes in which the task was done, by behaviour."""
    attacked: int = 0
    failed: int = 0
    """Episodes that AgentDojo's own check failed to score, on both sides."""
    unexecuted: int = 0
    """Episodes that came to the limit of turns."""
    outputs: int = 0
    """Tool results that policies read."""
    omitted: int = 0
    """Those that a detector left out."""
    differences: list[str] = field(default_factory=list)

    def add(self, key: Key, mine: Played, theirs: Played) -> None:
        self.episodes += 1
        self.solved[key[1]] += bool(theirs.utility)
        self.attacked += bool(theirs.attack_success)
        self.failed += theirs.error is not None
        self.unexecuted += len(theirs.prompts) == 16
        read = [message.content or "" for message in theirs.messages if message.role == "tool"]
        self.outputs += len(read)
        self.omitted += sum(text.startswith("<Data omitted") for text in read)
        found = list(_differences(mine, theirs))
        if found:
            self.differences.append(f"{' '.join(key)}: {'; '.join(found)}")


def compare(
    agentdojo: Executor,
    settings: Sequence[Setting],
    mode: str,
    behaviours: Sequence[str],
    backend: str = "process",
    image: str | None = None,
    every: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> Comparison:
    """Plays the tasks of some suites on both sides.

    Args:
        agentdojo: Runs AgentDojo's side, in a process of its own.
        settings: One for each suite; they differ in nothing else.
        mode: Which tasks, as `environment.args.mode`.
        behaviours: What the policy is like; one episode of each task for each.
        backend: Our side's sandbox.
        image: Our side's image.
        every: Play only every so many-th task.
        overrides: What our side has otherwise, so that it must differ.
    """
    one = settings[0]
    args: dict[str, Any] = {
        "version": one.version,
        "suites": [setting.suite for setting in settings],
        "mode": mode,
        "attack": one.attack,
        "attack_model": one.model,
        "tool_output": one.tool_output or "yaml",
    }
    if one.defense is not None:
        args["defense"] = {"id": one.defense, "args": {"model": one.detector} if one.detector else {}}
    args |= overrides or {}
    found = Comparison()
    by_suite = {setting.suite: setting for setting in settings}
    with ours(args, backend, image) as side:
        chosen = [row["info"] for row in side.rows.values()][::every]
        found.user_tasks = {info["user_task"] for info in chosen if info["user_task"]}
        found.injection_tasks = {info["injection_task"] for info in chosen if info["injection_task"]}
        work = [
            (
                by_suite[suite],
                [Task(info["task_id"], info["user_task"], info["injection_task"]) for info in infos],
            )
            for (suite, _), infos in groupby(chosen, key=lambda info: (info["suite"], info["user_task"]))
        ]
        expected = [agentdojo.submit(agentdojo_plays, setting, tasks, behaviours) for setting, tasks in work]
        for answer in expected:
            _both(side, answer.result(timeout=600), found)
    return found


def _both(side: Ours, expected: list[tuple[Key, Any, Played]], found: Comparison) -> None:
    theirs = {key: played for key, _, played in expected}
    for key, mine in side.play({key: script for key, script, _ in expected}).items():
        found.add(key, mine, theirs[key])


def _differences(mine: Played, theirs: Played) -> Iterator[str]:
    if theirs.error is not None:
        if mine.error is None or theirs.error.partition(":")[0] not in mine.error:
            yield f"AgentDojo fails with {theirs.error}, we with {mine.error}"
        return
    if mine.error is not None:
        yield f"we fail with {mine.error}"
        return
    if mine.prompts != theirs.prompts:
        yield (
            "other prompts"
            + "".join(
                f"\n  here  {a}\n  there {b}"
                for a, b in zip(mine.messages, theirs.messages, strict=False)
                if a != b
            )[:2000]
        )
    if mine.tools != theirs.tools:
        yield f"other tools: {mine.tools} {theirs.tools}"
    if mine.state != theirs.state:
        for name in mine.state.keys() | theirs.state.keys():
            one, other = mine.state.get(name, ""), theirs.state.get(name, "")
            if one != other:
                yield f"another {name}: {_around(one, other)}"
    if (mine.utility, mine.attack_success) != (theirs.utility, theirs.attack_success):
        here, there = (mine.utility, mine.attack_success), (theirs.utility, theirs.attack_success)
        yield f"utility and attack success {here}, there {there}"


def _around(mine: str, theirs: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), 0)
    return f"here …{mine[max(0, place - 80) : place + 80]}… there …{theirs[max(0, place - 80) : place + 80]}…"
