"""Attacks inject what AgentDojo's own code would inject."""

import pytest
from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks.attack_registry import ATTACKS, load_attack
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.attacks import AttackCache
from sandbox_images.agentdojo.environments import EnvironmentCache
from sandbox_images.tool_host.toolset import ToolsetError
from tests.helpers.agentdojo import suites

pytestmark = pytest.mark.slow

AUTOMATIC = sorted(ATTACKS.keys() - {"manual"})


class Target(BasePipelineElement):
    def __init__(self, name: str) -> None:
        self.name = name

    def query(self, *_: object, **__: object) -> object:
        raise AssertionError("no attack asks its target")


def quick(name: str) -> TaskSuite:
    """The suite as the toolset has it, with the cached environments in place of AgentDojo's way."""
    suite = suites()[name]
    suite.load_and_inject_default_environment = EnvironmentCache(suite).copy  # type: ignore[method-assign]
    return suite


def assert_same(name: str, attack: str, model: str, user_tasks: list[str]) -> int:
    own, cached = suites()[name], AttackCache(quick(name))
    reference = load_attack(attack, own, Target(model))
    attacked = 0
    for user_task in user_tasks:
        for injection_task in own.injection_tasks:
            pair = own.get_user_task_by_id(user_task), own.get_injection_task_by_id(injection_task)
            try:
                expected = reference.attack(*pair)
            except ValueError as error:
                with pytest.raises(ToolsetError, match=str(error)):
                    cached.injections(attack, model, user_task, injection_task)
                continue
            assert cached.injections(attack, model, user_task, injection_task) == expected
            assert expected
            attacked += 1
    return attacked


@pytest.mark.parametrize("attack", AUTOMATIC)
def test_every_attack_injects_what_agentdojo_injects_in_banking(attack: str) -> None:
    tasks = list(suites()["banking"].user_tasks)
    assert assert_same("banking", attack, "local", tasks) > 100


@pytest.mark.parametrize("name", ["slack", "travel", "workspace"])
def test_attack_injects_what_agentdojo_injects_in_other_suites(name: str) -> None:
    tasks = list(suites()[name].user_tasks)[:6]
    assert assert_same(name, "important_instructions", "gpt-4o-2024-05-13", tasks) > 0


def test_attack_addresses_the_model_by_its_name_in_prose() -> None:
    cached = AttackCache(quick("banking"))
    injections = cached.injections(
        "important_instructions", "gpt-4o-2024-05-13", "user_task_0", "injection_task_0"
    )
    assert all("GPT-4" in text for text in injections.values())


def test_injections_are_computed_once() -> None:
    cached = AttackCache(quick("banking"))
    first = cached.injections("direct", "local", "user_task_0", "injection_task_0")
    assert cached.injections("direct", "local", "user_task_0", "injection_task_0") is first
    assert cached.injections("direct", "local", "user_task_0", "injection_task_1") != first


def test_unknown_attack_and_model_are_named() -> None:
    cached = AttackCache(quick("banking"))
    with pytest.raises(ToolsetError, match=r"no attack 'nothing'; AgentDojo has .*direct"):
        cached.attack("nothing", "local")
    with pytest.raises(ToolsetError, match=r"cannot be made for a model called 'nobody'"):
        cached.attack("important_instructions", "nobody")
