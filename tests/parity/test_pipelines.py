from concurrent.futures import Executor
from pathlib import Path

import pytest

from tests.helpers.detector import make_detector
from tests.parity.comparison import compare
from tests.parity.episode import Setting

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("agentdojo_forks")]
ATTACK = "important_instructions"


@pytest.mark.parametrize("defense", ["repeat_user_prompt", "spotlighting_with_delimiting", "tool_filter"])
def test_defense_is_as_agentdojo_has_it(agentdojo: Executor, defense: str):
    settings = [Setting("v1.2.2", suite, ATTACK, defense=defense) for suite in ("travel", "slack")]
    found = compare(agentdojo, settings, "attack", ("obedient", "hijacked", "erratic"), every=10)
    assert found.differences == []
    assert found.episodes == 75
    assert found.solved["obedient"] > 0


def test_detector_is_as_agentdojo_has_it(agentdojo: Executor, tmp_path: Path):
    detector = str(make_detector(tmp_path / "detector"))
    settings = [
        Setting("v1.2.2", suite, ATTACK, defense="transformers_pi_detector", detector=detector)
        for suite in ("banking", "slack")
    ]
    found = compare(agentdojo, settings, "attack", ("obedient", "erratic"), every=10)
    assert found.differences == []
    assert found.episodes == 50
    assert 0 < found.omitted < found.outputs


def test_json_output_is_as_agentdojo_has_it_where_it_does_not_crash(agentdojo: Executor):
    settings = [Setting("v1.2.2", suite, ATTACK, tool_output="json") for suite in ("banking", "slack")]
    found = compare(agentdojo, settings, "attack", ("obedient", "hijacked", "erratic"), every=10)
    assert found.differences == []
    assert found.episodes == 75
