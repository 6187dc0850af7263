"""Requests to the policy are AgentDojo's, key by key, but for what docs/agentdojo.md lists."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.helpers.detector import make_detector
from tests.parity.episode import Setting, Task, agentdojo_asks
from tests.parity.families import FAMILIES
from tests.parity.requests import Request, Requests, differences, our_requests, rows_of
from tests.parity.script import Action, Call, Lines
from workers.environments.agentdojo.tasks import load_catalog

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("agentdojo_forks")]
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


@dataclass(frozen=True)
class Episode:
    """What is played on both sides."""

    setting: Setting
    mode: str
    place: int
    """Which of the suite's tasks, or pairs of tasks: they are counted round and round."""
    policy: str | Lines

    def row(self) -> dict[str, Any]:
        """Our row of it."""
        suite = load_catalog(self.setting.version)["suites"][self.setting.suite]
        users, injections = list(suite["user_tasks"]), list(suite["injection_tasks"])
        wanted = {
            "user_tasks": [users[self.place % len(users)]],
            "injection_tasks": [injections[self.place % len(injections)]],
        }
        if self.mode == "attack":
            wanted |= {"attack": self.setting.attack, "attack_model": self.setting.model}
        (row,) = rows_of({**args_of(self.setting), **wanted, "mode": self.mode})
        return row


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several cost so small a model five times the CPU
    yield str(make_detector(tmp_path_factory.mktemp("detector") / "model"))
    torch.set_num_threads(threads)


def args_of(setting: Setting) -> dict[str, Any]:
    """Our `environment.args` of a setting."""
    args: dict[str, Any] = {"version": setting.version, "suites": [setting.suite]}
    if setting.detector is not None:  # another model than the preset's, which is fetched from a hub
        return {**args, "defense": {"id": setting.defense, "args": {"model": setting.detector}}}
    return {**args, "preset": f"agentdojo-{setting.defense or 'default'}"}


def compare(
    agentdojo: Executor, groups: Iterable[Sequence[Episode]], seen: Counter[str] | None = None
) -> list[str]:
    """Plays episodes on both sides; returns what differs.

    Args:
        agentdojo: Runs AgentDojo's side, in processes of its own.
        groups: Episodes; those of one group differ in nothing but task, attack and policy.
        seen: Counts how often each of the listed differences was met.
    """
    work: list[tuple[list[tuple[Episode, dict[str, Any]]], Requests, Future[Any]]] = []
    with ExitStack() as stack:
        for group in groups:
            rows = [(each, each.row()) for each in group]
            asked = [(each.setting, task_of(row), each.policy) for each, row in rows]
            theirs = agentdojo.submit(agentdojo_asks, asked)
            side = stack.enter_context(our_requests(args_of(group[0].setting)))  # on the main thread alone
            work.append((rows, side, theirs))
        with ThreadPoolExecutor(2) as pool:
            compared = [*pool.map(lambda each: compare_group(*each), work)]
    for _, met in compared if seen is not None else ():
        seen.update(met)
    return [difference for found, _ in compared for difference in found]


def compare_group(
    group: Sequence[tuple[Episode, dict[str, Any]]], side: Requests, theirs: Future[Any]
) -> tuple[list[str], Counter[str]]:
    """Plays a group on our side; returns what differs, and how often listed differences were met."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for (each, row), (policy, asked) in zip(group, theirs.result(timeout=600), strict=True):
        name = each.policy if isinstance(each.policy, str) else "lines"
        what = f"{row['info']['task_id']}, {each.setting.defense}, {name}"
        found += [f"{what}: {one}" for one in differences(side.play(row, policy), asked, seen)]
    return found, seen


def task_of(row: dict[str, Any]) -> Task:
    info = row["info"]
    return Task(info["task_id"], info["user_task"], info["injection_task"])


def test_each_listed_difference_is_met_and_there_is_no_other(agentdojo: Executor) -> None:
    seen: Counter[str] = Counter()
    setting = Setting("v1.2.2", "banking", "direct", defense="tool_filter")
    calling = Lines([Action("get_balance, get_iban, get_most_recent_transactions"), *TALKATIVE.lines])
    silent = Lines([Action(None), Action("done")])
    found = compare(agentdojo, [[Episode(setting, "attack", 0, each) for each in (calling, silent)]], seen)
    assert found == []
    assert all(seen[name] for name in LISTED), seen


def test_what_a_model_thought_is_sent_back_word_for_word() -> None:
    setting = Setting("v1.2.2", "banking")
    with our_requests(args_of(setting)) as side:
        last = side.play(Episode(setting, "benign", 0, TALKATIVE).row(), TALKATIVE)[-1]
    thoughts = [message.get("reasoning_content") for message in last["messages"] if is_action(message)]
    assert thoughts == ["I look first.", "And now?", None]


def is_action(message: Request) -> bool:
    return message["role"] == "assistant"


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_under_every_attack_and_defense_are_agentdojos(
    agentdojo: Executor, detector: str, version: str
) -> None:
    """Half of the pairs of attack and defense in each version; suites, tasks and policies take turns."""
    seen: Counter[str] = Counter()
    groups = [*turns(version, detector)]
    assert [len(group) for group in groups] == [len(ATTACKS) // 2 + 2] * len(DEFENSES)
    assert compare(agentdojo, groups, seen) == []
    assert all(seen[name] for name in LISTED), seen


def turns(version: str, detector: str) -> Iterator[list[Episode]]:
    """What is played of a version, defense by defense."""
    number = VERSIONS.index(version)
    for place, defense in enumerate(DEFENSES):
        suites = SMALL_SUITES if defense == DETECTOR else SUITES
        suite = suites[(number + place) % len(suites)]
        plain = Setting(version, suite, defense=defense, detector=detector if defense == DETECTOR else None)
        policies = itertools.cycle(FAMILIES[(number + 2 * place + i) % len(FAMILIES)] for i in range(8))
        episodes = [
            Episode(replace(plain, attack=attack), "attack", 3 * number + 5 * i + place, next(policies))
            for i, attack in enumerate(ATTACKS)
            if (i + number + place) % 2
        ]
        episodes += [Episode(plain, mode, number + place, next(policies)) for mode in ("benign", "injection")]
        yield episodes


def test_every_version_attack_defense_and_family_meets_every_other() -> None:
    known = load_catalog(VERSIONS[-1])
    assert (tuple(known["versions"]), {*known["attacks"]} - {"manual"}) == (VERSIONS, {*ATTACKS})
    kinds: list[tuple[str | None, ...]] = [VERSIONS, (*ATTACKS, None), DEFENSES, FAMILIES]
    met: set[tuple[int, str | None, int, str | None]] = set()
    for version in VERSIONS:
        for each in itertools.chain.from_iterable(turns(version, "any")):
            assert isinstance(each.policy, str)
            labels = (version, each.setting.attack, each.setting.defense, each.policy)
            met |= {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(enumerate(labels), 2)}
    for i, j in itertools.combinations(range(len(kinds)), 2):
        missing = {(a, b) for a in kinds[i] for b in kinds[j] if (i, a, j, b) not in met}
        assert not missing


@pytest.mark.exhaustive
@pytest.mark.parametrize(("version", "suite"), list(itertools.product(VERSIONS, SUITES)))
def test_requests_of_every_family_and_attack_in_every_suite_are_agentdojos(
    agentdojo: Executor, detector: str, version: str, suite: str
) -> None:
    policies = (*FAMILIES, "obedient", "hijacked", "erratic", "relentless")
    groups: list[Sequence[Episode]] = []
    for defense in DEFENSES if suite in SMALL_SUITES else DEFENSES[:-1]:
        plain = Setting(version, suite, defense=defense, detector=detector if defense == DETECTOR else None)
        groups.append(
            [
                Episode(replace(plain, attack=attack), "attack", 5 * i + 7 * j, policy)
                for (i, attack), (j, policy) in itertools.product(enumerate(ATTACKS), enumerate(policies))
            ]
        )
    assert compare(agentdojo, groups) == []
