"""What we say AgentDojo has is what AgentDojo has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agentdojo.agent_pipeline.agent_pipeline import load_system_message
from agentdojo.attacks.attack_registry import ATTACKS
from agentdojo.models import MODEL_NAMES
from agentdojo.task_suite.load_suites import _SUITES

from tests.helpers.agentdojo import SUITES, VERSION, as_json, suites
from workers.environments.agentdojo.tasks import load_catalog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
BY_ITSELF = """
import json, sys
from agentdojo.task_suite.load_suites import get_suites

def states(suite):
    canaries = {vector: "<" + vector + ">" for vector in suite.get_injection_vector_defaults()}
    build = suite.load_and_inject_default_environment
    return [build(injections).model_dump(mode="json") for injections in ({}, canaries)]

assert "openai" in sys.modules and sys.modules["openai"].__file__
json.dump({name: states(suite) for name, suite in get_suites(sys.argv[1]).items()}, sys.stdout)
"""


@pytest.mark.parametrize("version", ["v1", VERSION])
def test_catalog_lists_agentdojos_own_tasks_in_its_own_order(version: str) -> None:
    found = load_catalog(version)["suites"]
    assert list(found) == list(suites(version))
    for name, suite in suites(version).items():
        assert [(task, entry["prompt"]) for task, entry in found[name]["user_tasks"].items()] == [
            (task_id, task.PROMPT) for task_id, task in suite.user_tasks.items()
        ]
        assert [(task, entry["prompt"]) for task, entry in found[name]["injection_tasks"].items()] == [
            (task_id, task.GOAL) for task_id, task in suite.injection_tasks.items()
        ]
        for kind in ("user_tasks", "injection_tasks"):
            for task_id, task in getattr(suite, kind).items():
                assert found[name][kind][task_id]["difficulty"] == task.DIFFICULTY.name.lower()


def test_catalog_lists_agentdojos_attacks_models_and_versions() -> None:
    found = load_catalog(VERSION)
    assert {name: attack["is_dos"] for name, attack in found["attacks"].items()} == {
        name: attack.is_dos_attack for name, attack in ATTACKS.items()
    }
    assert set(found["models"]) == set(MODEL_NAMES)
    assert set(found["versions"]) == set(_SUITES)
    assert found["system_message"] == load_system_message(None)


def test_benchmark_has_the_tasks_that_the_readme_speaks_of() -> None:
    found = load_catalog(VERSION)["suites"].values()
    assert sum(len(suite["user_tasks"]) for suite in found) == 97
    assert sum(len(suite["injection_tasks"]) for suite in found) == 35
    assert sum(len(suite["user_tasks"]) * len(suite["injection_tasks"]) for suite in found) == 949


def test_placeholders_for_the_llm_sdks_change_no_environment() -> None:
    """AgentDojo with the vendors' real packages, in a process of its own, builds what we build."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", BY_ITSELF, VERSION],
        env=environment,
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    expected = json.loads(done.stdout)
    assert list(expected) == list(SUITES) or set(expected) == set(SUITES)
    for name, suite in suites().items():
        canaries = {vector: f"<{vector}>" for vector in suite.get_injection_vector_defaults()}
        ours = [as_json(suite.load_and_inject_default_environment(values)) for values in ({}, canaries)]
        assert json.dumps(ours, sort_keys=True) == json.dumps(expected[name], sort_keys=True)


def test_placeholders_are_gone_once_the_toolset_is_imported_here() -> None:
    import openai

    assert openai.__file__
