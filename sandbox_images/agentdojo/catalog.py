"""`python -m sandbox_images.agentdojo.catalog REQUEST`: what there is in a version, as JSON.

A process of its own, so that whoever asks need not import agentdojo.
"""
# ruff: noqa: E402 - the SDKs must be replaced before agentdojo is imported

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from sandbox_images.agentdojo import llm_sdks

llm_sdks.install_placeholders()

from agentdojo.agent_pipeline.agent_pipeline import load_system_message
from agentdojo.attacks.attack_registry import ATTACKS
from agentdojo.models import MODEL_NAMES
from agentdojo.task_suite.load_suites import (
    _SUITES,  # pyright: ignore[reportPrivateUsage] - AgentDojo lists its versions nowhere else
    get_suites,
)
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.attacks import addresses_model, find_attack_class, make_attack
from sandbox_images.agentdojo.imports import add_import_folder, is_import_path
from sandbox_images.agentdojo.suites import load_suite
from sandbox_images.tool_host.toolset import ToolsetError


def make_catalog(
    version: str, suites: Sequence[str] | None = None, attack: str | None = None, target: str | None = None
) -> dict[str, Any]:
    """Suites with their tasks, attacks, and the models that AgentDojo knows by name.

    Args:
        version: Benchmark version.
        suites: Suites that are asked for: a user's own, by import path, are listed beside AgentDojo's.
        attack: The attack that is asked for: a user's own, by import path, is listed too.
        target: The name of the model that a user's own attack is made for.

    Returns:
        The catalog; `problems` says by field what could not be imported.
    """
    versions = sorted(_SUITES)
    found = dict(get_suites(version)) if version in versions else {}
    attacks = dict(sorted(ATTACKS.items()))
    problems: dict[str, str] = {}
    try:
        found |= {path: load_suite(version, path) for path in suites or () if is_import_path(path)}
    except ToolsetError as error:
        problems["suites"] = str(error)
    if attack is not None and is_import_path(attack):
        try:
            attacks[attack] = find_attack_class(attack)
            for suite in [*found.values()][:1]:
                make_attack(attacks[attack], suite, target)
        except ToolsetError as error:
            problems["attack"] = str(error)
    return {
        "versions": versions,
        "suites": {name: _describe_suite(suite) for name, suite in found.items()},
        "attacks": {
            name: {
                "is_dos": kind.is_dos_attack,
                "addresses_model": any(addresses_model(kind, suite) for suite in [*found.values()][:1]),
            }
            for name, kind in attacks.items()
        },
        "models": list(MODEL_NAMES),
        "system_message": load_system_message(None),
        "problems": problems,
    }


def _describe_suite(suite: TaskSuite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "user_tasks": {
            task_id: {"prompt": task.PROMPT, "difficulty": task.DIFFICULTY.name.lower()}
            for task_id, task in suite.user_tasks.items()
        },
        "injection_tasks": {
            task_id: {"prompt": task.GOAL, "difficulty": task.DIFFICULTY.name.lower()}
            for task_id, task in suite.injection_tasks.items()
        },
    }


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    add_import_folder(request.pop("search_path"))
    with redirect_stdout(sys.stderr):  # a user's module may print
        answer = make_catalog(**request)
    json.dump(answer, sys.stdout)
