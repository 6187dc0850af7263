"""Requests to the policy are AgentDojo's, key by key, but for what docs/agentdojo.md lists."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.detector import make_detector
from tests.parity.episode import Setting, Task, agentdojo_asks
from tests.parity.families import FAMILIES
from tests.parity.requests import Request, differences, our_requests, rows_of
from tests.parity.script import Action, Call, Lines
from workers.environments.agentdojo.tasks import load_catalog

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
    "swearwords_dos",
    "captcha_dos",
    "offensive_email_dos",
    "felony_dos",
)
DETECTOR = "transformers_pi_detector"
DEFENSES = (None, "repeat_user_prompt", "spotlighting_with_delimiting", "tool_filter", DETECTOR)
SUITES = ("workspace", "travel", "banking", "slack")
SMALL_SUITES = ("banking", "slack")
"""Those whose tools say little enough for a detector that reads every letter."""
LISTED = ("temperature", "tool_choice", "developer", "blocks", "name", "empty text", "no text", "reasoning")
TALKATIVE = Lines(
    [
        Action("", (Call("a", "get_balance", {}), Call("b", "<empty-function-name>", {})), "I look first."),
        Action("Let me see.", (Call("c", "get_iban", {}), Call("d", "", {})), "And now?"),
        Action(None, (Call("e", "get_most_recent_transactions", {"n": 3}),)),
        Action("done"),
    ]
)
Episode = tuple[Setting, dict[str, Any], str | Lines]
"""What is played with, our row, and by whom."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_detector(tmp_path_factory.mktemp("detector") / "model"))


def args_of(setting: Setting) -> dict[str, Any]:
    """Our `environment.args` of a setting."""
    args: dict[str, Any] = {"version": setting.version, "suites": [setting.suite]}
    if setting.detector is not None:  # another model than the preset's, which is fetched from a hub
        return {**args, "defense": {"id": setting.defense, "args": {"model": setting.detector}}}
    return {**args, "preset": f"agentdojo-{setting.defense or 'default'}"}


def episode(setting: Setting, mode: str, place: int, policy: str | Lines) -> Episode:
    """An episode of one of a suite's tasks, or pairs of tasks, by its place among them."""
    suite = load_catalog(setting.version)["suites"][setting.suite]
    users, injections = list(suite["user_tasks"]), list(suite["injection_tasks"])
    wanted = {
        "user_tasks": [users[place % len(users)]],
        "injection_tasks": [injections[place % len(injections)]],
    }
    under_attack = {"attack": setting.attack, "attack_model": setting.model} if mode == "attack" else {}
    (row,) = rows_of({**args_of(setting), **wanted, **under_attack, "mode": mode})
    return setting, row, policy


def compare(agentdojo: Executor, episodes: Iterable[Episode], seen: Counter[str]) -> list[str]:
    """Plays episodes that differ in nothing but task and attack on both sides; returns what differs."""
    played = list(episodes)
    asked = agentdojo.submit(agentdojo_asks, [(setting, task_of(row), who) for setting, row, who in played])
    found: list[str] = []
    with our_requests(args_of(played[0][0])) as side:
        for (setting, row, who), (policy, theirs) in zip(played, asked.result(timeout=600), strict=True):
            ours = side.play(row, policy)
            name = who if isinstance(who, str) else "lines"
            found += [
                f"{row['info']['task_id']}, {setting.defense}, {name}: {each}"
                for each in differences(ours, theirs, seen)
            ]
    return found


def task_of(row: dict[str, Any]) -> Task:
    info = row["info"]
    return Task(info["task_id"], info["user_task"], info["injection_task"])


def test_each_listed_difference_is_met_and_there_is_no_other(agentdojo: Executor) -> None:
    seen: Counter[str] = Counter()
    setting = Setting("v1.2.2", "banking", "direct", defense="tool_filter")
    calling = Lines([Action("get_balance, get_iban, get_most_recent_transactions"), *TALKATIVE.lines])
    silent = Lines([Action(None), Action("done")])
    found = compare(agentdojo, [episode(setting, "attack", 0, each) for each in (calling, silent)], seen)
    assert found == []
    assert all(seen[name] for name in LISTED), seen


def test_what_a_model_thought_is_sent_back_word_for_word() -> None:
    setting = Setting("v1.2.2", "banking")
    _, row, _ = episode(setting, "benign", 0, TALKATIVE)
    with our_requests(args_of(setting)) as side:
        last = side.play(row, TALKATIVE)[-1]
    thoughts = [message.get("reasoning_content") for message in last["messages"] if is_action(message)]
    assert thoughts == ["I look first.", "And now?", None]


def is_action(message: Request) -> bool:
    return message["role"] == "assistant"


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_under_every_attack_and_defense_are_agentdojos(
    agentdojo: Executor, detector: str, version: str
) -> None:
    """Every attack with every defense; suites, tasks and families of policies take turns."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for defense, episodes in turns(version, detector):
        found += compare(agentdojo, episodes, seen)
        assert len(episodes) == len(ATTACKS) + 2, defense
    assert found == []
    assert all(seen[name] for name in LISTED), seen


def turns(version: str, detector: str) -> Iterator[tuple[str | None, list[Episode]]]:
    """What is played of a version, by defense."""
    number = VERSIONS.index(version)
    for place, defense in enumerate(DEFENSES):
        suites = SMALL_SUITES if defense == DETECTOR else SUITES
        suite = suites[(number + place) % len(suites)]
        plain = Setting(version, suite, defense=defense, detector=detector if defense == DETECTOR else None)
        policies = itertools.cycle(FAMILIES[(number + 2 * place + i) % len(FAMILIES)] for i in range(8))
        episodes = [
            episode(replace(plain, attack=attack), "attack", 3 * number + 5 * i + place, next(policies))
            for i, attack in enumerate(ATTACKS)
        ]
        episodes += [episode(plain, mode, number + place, next(policies)) for mode in ("benign", "injection")]
        yield defense, episodes


def test_every_family_meets_every_version_attack_and_defense(detector: str) -> None:
    known = load_catalog(VERSIONS[-1])
    assert (tuple(known["versions"]), {*known["attacks"]} - {"manual"}) == (VERSIONS, {*ATTACKS})
    met: set[tuple[str, str | None]] = set()
    for version in VERSIONS:
        for defense, episodes in turns(version, detector):
            for setting, _, policy in episodes:
                assert isinstance(policy, str)
                met |= {(policy, version), (policy, defense), (policy, setting.attack)}
    labels = (*VERSIONS, *DEFENSES, *ATTACKS)
    assert met == {(policy, label) for policy in FAMILIES for label in labels}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("version", "suite"), list(itertools.product(VERSIONS, SUITES)))
def test_requests_of_every_family_and_attack_in_every_suite_are_agentdojos(
    agentdojo: Executor, detector: str, version: str, suite: str
) -> None:
    policies = (*FAMILIES, "obedient", "hijacked", "erratic", "relentless")
    found: list[str] = []
    for defense in DEFENSES if suite in SMALL_SUITES else DEFENSES[:-1]:
        plain = Setting(version, suite, defense=defense, detector=detector if defense == DETECTOR else None)
        episodes: Sequence[Episode] = [
            episode(replace(plain, attack=attack), "attack", 5 * i + 7 * j, policy)
            for (i, attack), (j, policy) in itertools.product(enumerate(ATTACKS), enumerate(policies))
        ]
        found += compare(agentdojo, episodes, Counter())
    assert found == []
