"""Attacks: AgentDojo's own by name, a user's own by import path, and which injections a pair gets of them."""

from typing import Any

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks.attack_registry import ATTACKS
from agentdojo.attacks.base_attacks import BaseAttack
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.imports import imported, is_path
from sandbox_images.tool_host.toolset import ToolsetError


class _Target(BasePipelineElement):
    """The attacked pipeline, of which attacks read no more than the name."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def query(self, *_: Any, **__: Any) -> Any:
        raise ToolsetError("an attack that queries its target can't be computed ahead of the episode")


def attack_class(name: str) -> type[BaseAttack]:
    """An attack by its name in AgentDojo's registry, or by the import path of a `BaseAttack` subclass.

    Raises:
        ToolsetError: There is none.
    """
    if not is_path(name):
        if name not in ATTACKS:
            raise ToolsetError(f"there is no attack {name!r}; AgentDojo has {', '.join(sorted(ATTACKS))}")
        return ATTACKS[name]
    found = imported(name)
    if not (isinstance(found, type) and issubclass(found, BaseAttack)):
        raise ToolsetError(f"{name} is no subclass of agentdojo's BaseAttack")
    return found


def addresses_model(attack: type[BaseAttack], suite: TaskSuite) -> bool:
    """Whether an attack calls its target by name, so that it must know the model."""
    try:
        attack(suite, _Target(""))
    except ValueError:
        return True
    return False


class AttackCache:
    """Injections of one suite, each pair's computed once per attack.

    Args:
        suite: Its `load_and_inject_default_environment` should be quick: attacks call it per user task.
    """

    def __init__(self, suite: TaskSuite) -> None:
        self._suite = suite
        self._attacks: dict[tuple[str, str | None], BaseAttack] = {}
        self._injections: dict[tuple[str, str | None, str, str], dict[str, str]] = {}

    def attack(self, name: str, model: str | None) -> BaseAttack:
        """An attack on a model, by the name that AgentDojo knows the model by.

        Raises:
            ToolsetError: There is no such attack, or it does not know the model.
        """
        if (name, model) not in self._attacks:
            attack = attack_class(name)
            try:
                self._attacks[name, model] = attack(self._suite, _Target(model))
            except ValueError as error:
                raise ToolsetError(f"attack {name!r} does not know a model {model!r}: {error}") from error
        return self._attacks[name, model]

    def injections(self, name: str, model: str | None, user_task: str, injection_task: str) -> dict[str, str]:
        """What the attack writes into each injection vector that the user task comes across.

        Raises:
            ToolsetError: The pair can't be attacked.
        """
        key = (name, model, user_task, injection_task)
        if key not in self._injections:
            attack = self.attack(name, model)
            try:
                self._injections[key] = attack.attack(
                    self._suite.get_user_task_by_id(user_task),
                    self._suite.get_injection_task_by_id(injection_task),
                )
            except Exception as error:  # an attack may be a user's own, and raise anything
                raise ToolsetError(
                    f"attack {name!r} on {user_task} with {injection_task} of {self._suite.name}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return self._injections[key]
