from collections.abc import Sequence
from concurrent.futures import Executor

import pytest

from tests.parity.comparison import compare
from tests.parity.episode import Setting

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("agentdojo_forks")]
SUITES = ("workspace", "travel", "banking", "slack")


@pytest.mark.parametrize(
    ("version", "suites", "attack", "model", "every"),
    [
        ("v1", SUITES, "direct", "local", 90),
        ("v1.1", SUITES, "ignore_previous", "local", 90),
        ("v1.1.1", SUITES, "system_message", "local", 90),
        ("v1.1.2", SUITES, "injecagent", "local", 90),
        ("v1.2", SUITES, "important_instructions", "gpt-4o-2024-05-13", 120),
        ("v1.2.1", SUITES, "tool_knowledge", "claude-3-opus-20240229", 120),
        ("v1.2.2", ["travel"], "important_instructions_no_user_name", "gemini-1.5-pro-001", 20),
        ("v1.2.2", ["slack"], "important_instructions_no_model_name", "local", 12),
        ("v1.2.2", ["banking"], "important_instructions_no_names", "local", 15),
        ("v1.2.2", ["slack"], "important_instructions_wrong_model_name", "command-r-plus", 12),
        ("v1.2.2", ["banking"], "important_instructions_wrong_user_name", "vllm_parsed", 15),
        ("v1.2.2", ["slack"], "dos", "local", 2),
        ("v1.2.2", ["banking"], "swearwords_dos", "gpt-3.5-turbo-0125", 2),
        ("v1.2.2", ["slack"], "captcha_dos", "local", 2),
        ("v1.2.2", ["banking"], "offensive_email_dos", "local", 2),
        ("v1.2.2", ["travel"], "felony_dos", "claude-3-haiku-20240307", 2),
    ],
)
def test_sample_of_version_and_attack_is_as_agentdojo_has_it(
    agentdojo: Executor, version: str, suites: Sequence[str], attack: str, model: str, every: int
):
    settings = [Setting(version, suite, attack, model) for suite in suites]
    found = compare(agentdojo, settings, "attack", ("hijacked", "erratic"), every=every)
    assert found.differences == []
    assert found.episodes >= 14
    assert found.attacked > 0


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.1.1", "v1.2", "v1.2.1"])
def test_user_tasks_of_every_version_are_as_agentdojo_has_them(agentdojo: Executor, version: str):
    settings = [Setting(version, suite) for suite in SUITES]
    found = compare(agentdojo, settings, "benign", ("obedient",), every=4)
    assert found.differences == []
    assert found.episodes == 25
