"""Requests to the policy are AgentDojo's, key by key, but for what docs/agentdojo.md lists."""

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.parity.episode import Setting, Task, agentdojo_asks
from tests.parity.requests import differences, our_requests
from tests.parity.script import Action, Call, Lines

pytestmark = [pytest.mark.parity, pytest.mark.timeout(900)]
VERSIONS = ("v1", "v1.1", "v1.1.1", "v1.1.2", "v1.2", "v1.2.1", "v1.2.2")
ATTACKS = (
    "direct",
    "ignore_previous",
    "system_message",
    "injecagent",
    "important_instructions",
    "important_instructions_no_user_name",
    "important_instructions_no_model_name",
    "important_instructions_no_names",
    "important_instructions_wrong_model_name",
    "important_instructions_wrong_user_name",
    "tool_knowledge",
    "dos",
    "captcha_dos",
)
DEFENSES = (None, "repeat_user_prompt", "spotlighting_with_delimiting", "tool_filter")
SUITES = ("workspace", "travel", "banking", "slack")
TALKATIVE = Lines(
    [
        Action("", (Call("a", "get_balance", {}), Call("b", "<empty-function-name>", {})), "I look first."),
        Action("Let me see.", (Call("c", "get_iban", {}), Call("d", "", {})), "And now?"),
        Action(None, (Call("e", "get_most_recent_transactions", {"n": 3}),)),
        Action("done"),
    ]
)


def compared(
    agentdojo: Executor, setting: Setting, pairs: int, policies: Sequence[str | Lines], seen: Counter[str]
) -> tuple[int, list[str]]:
    """Plays some pairs on both sides; returns how many episodes there were, and what differs."""
    args: dict[str, Any] = {
        "version": setting.version,
        "suites": [setting.suite],
        "mode": "attack",
        "attack": setting.attack,
        "attack_model": setting.model,
    }
    if setting.defense is not None:
        args["preset"] = f"agentdojo-{setting.defense}"
    found: list[str] = []
    played = 0
    with our_requests(args) as side:
        for task_id, row in [*side.rows.items()][:: max(1, len(side.rows) // pairs)][:pairs]:
            task = Task(task_id, row["info"]["user_task"], row["info"]["injection_task"])
            asked = agentdojo.submit(agentdojo_asks, setting, task, policies).result(timeout=300)
            for script, theirs in asked:
                found += [
                    f"{task_id}: {each}" for each in differences(side.play(task_id, script), theirs, seen)
                ]
                played += 1
    return played, found


def test_each_listed_difference_is_met_and_there_is_no_other(agentdojo: Executor) -> None:
    seen: Counter[str] = Counter()
    setting = Setting("v1.2.2", "banking", "direct", defense="tool_filter")
    calling = Lines([Action("get_balance, get_iban, get_most_recent_transactions"), *TALKATIVE.lines])
    silent = Lines([Action(None), Action("done")])
    played, found = compared(agentdojo, setting, 2, [calling, silent], seen)
    assert played >= 4
    unlisted = [each for each in found if "reasoning_content" not in each]
    assert unlisted == []
    assert len(found) > len(unlisted)  # what a policy thought is sent back
    listed = ("temperature", "tool_choice", "developer", "blocks", "name", "empty text", "no text")
    assert all(seen[name] for name in listed), seen


@pytest.mark.parametrize(
    ("version", "attack", "defense", "suite"),
    [
        (VERSIONS[i % len(VERSIONS)], attack, DEFENSES[i % len(DEFENSES)], SUITES[(i // 2) % len(SUITES)])
        for i, attack in enumerate(ATTACKS)
    ],
)
def test_requests_under_an_attack_are_agentdojos(
    agentdojo: Executor, version: str, attack: str, defense: str | None, suite: str
) -> None:
    setting = Setting(version, suite, attack, defense=defense)
    played, found = compared(agentdojo, setting, 2, ["hijacked", "erratic"], Counter())
    assert played
    assert found == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("version", "attack", "defense"), list(itertools.product(VERSIONS, ATTACKS, DEFENSES))
)
def test_requests_of_every_version_attack_and_defense_are_agentdojos(
    agentdojo: Executor, version: str, attack: str, defense: str | None
) -> None:
    for suite in SUITES:
        setting = Setting(version, suite, attack, defense=defense)
        policies = ["obedient", "hijacked", "erratic", "relentless"]
        played, found = compared(agentdojo, setting, 8, policies, Counter())
        assert played
        assert found == []
