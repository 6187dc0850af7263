from concurrent.futures import Executor

import pytest

from tests.parity.comparison import compare
from tests.parity.episode import Setting

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("agentdojo_forks")]
SUITES = ("workspace", "travel", "banking", "slack")
ATTACK = "important_instructions"


BEHAVIOURS = ("obedient", "hijacked", "erratic")


@pytest.mark.parametrize(
    ("suite", "every", "pairs", "users", "injections"),
    [
        ("workspace", 9, 63, 40, 14),
        ("travel", 3, 47, 20, 7),
        ("banking", 4, 36, 16, 9),
        ("slack", 3, 35, 21, 5),
    ],
)
def test_every_task_and_injection_under_attack_is_as_agentdojo_has_it(
    agentdojo: Executor, suite: str, every: int, pairs: int, users: int, injections: int
):
    """A sample of the pairs: the steps have no divisor in common with the number of injection tasks."""
    found = compare(agentdojo, [Setting("v1.2.2", suite, ATTACK)], "attack", BEHAVIOURS, every=every)
    assert found.differences == []
    assert found.episodes == 3 * pairs
    assert (len(found.user_tasks), len(found.injection_tasks)) == (users, injections)
    assert found.solved["obedient"] > 0.8 * pairs and found.attacked > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("suite", "pairs"), [("workspace", 560), ("travel", 140), ("banking", 144), ("slack", 105)]
)
def test_every_pair_under_attack_is_as_agentdojo_has_it(agentdojo: Executor, suite: str, pairs: int):
    found = compare(agentdojo, [Setting("v1.2.2", suite, ATTACK)], "attack", BEHAVIOURS)
    assert found.differences == []
    assert found.episodes == 3 * pairs
    assert found.solved["obedient"] > 0.9 * pairs and found.attacked > 0


def test_every_user_task_alone_is_as_agentdojo_has_it(agentdojo: Executor):
    behaviours = ("obedient", "erratic", "relentless", "early")
    found = compare(agentdojo, [Setting("v1.2.2", suite) for suite in SUITES], "benign", behaviours)
    assert found.differences == []
    assert found.episodes == 4 * 97
    assert found.solved["obedient"] == 97
    assert found.unexecuted >= 97


def test_every_injection_task_alone_is_as_agentdojo_has_it(agentdojo: Executor):
    behaviours = ("obedient", "erratic", "relentless", "early")
    found = compare(agentdojo, [Setting("v1.2.2", suite) for suite in SUITES], "injection", behaviours)
    assert found.differences == []
    assert found.episodes == 4 * 35
    assert found.solved["obedient"] == 27  # all but workspace's 6 to 13, whose ground truth is empty
