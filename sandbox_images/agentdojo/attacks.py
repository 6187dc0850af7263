"""Attacks: AgentDojo's own by name, a user's own by import path, and which injections a pair gets of them."""

from collections.abc import Mapping
from typing import Any, cast

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks.attack_registry import ATTACKS
from agentdojo.attacks.base_attacks import BaseAttack
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.imports import import_object, is_import_path
from sandbox_images.tool_host.toolset import ToolsetError


class _AttackTarget(BasePipelineElement):
    """The target of an attack: a pipeline of which attacks read no more than the name."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def query(self, *_: Any, **__: Any) -> Any:
        raise ToolsetError("an attack that queries its target can't be computed ahead of the episode")


def find_attack_class(name: str) -> type[BaseAttack]:
    """An attack by its name in AgentDojo's registry, or by the import path of a `BaseAttack` subclass.

    Raises:
        ToolsetError: There is none.
    """
    if not is_import_path(name):
        if name not in ATTACKS:
            raise ToolsetError(f"there is no attack {name!r}; AgentDojo has {', '.join(sorted(ATTACKS))}")
        return ATTACKS[name]
    found = import_object(name)
    if not (isinstance(found, type) and issubclass(found, BaseAttack)):
        raise ToolsetError(f"{name} is no subclass of agentdojo's BaseAttack")
    return found


def make_attack(attack: type[BaseAttack], suite: TaskSuite, model: str | None) -> BaseAttack:
    """Makes an attack on a model.

    Raises:
        ToolsetError: The attack's constructor refuses the model's name, or raises for another reason.
    """
    try:
        return attack(suite, _AttackTarget(model))
    except Exception as error:  # an attack may be a user's own, and raise anything
        name = f"{attack.__module__}:{attack.__qualname__}"
        raise ToolsetError(
            f"attack {name} cannot be made for a model called {model!r}: {type(error).__name__}: {error}; "
            "`environment.args.attack_model` says what the model is called"
        ) from error


def addresses_model(attack: type[BaseAttack], suite: TaskSuite) -> bool:
    """Says whether an attack calls its target by name, so that it must know the model."""
    try:
        attack(suite, _AttackTarget(""))
    except Exception:  # noqa: BLE001 - a user's own attack may say in any way that it does not know a name
        return True
    return False


class AttackCache:
    """Injections of one suite, each pair's computed once per attack.

    Args:
        suite: Its `load_and_inject_default_environment` should be quick: attacks call it per user task.
    """

    def __init__(self, suite: TaskSuite) -> None:
        self._suite = suite
        self._vectors = suite.get_injection_vector_defaults()
        self._attacks: dict[tuple[str, str | None], BaseAttack] = {}
        self._injections: dict[tuple[str, str | None, str, str], dict[str, str]] = {}

    def attack(self, name: str, model: str | None) -> BaseAttack:
        """An attack on a model, by the name that AgentDojo knows the model by.

        Raises:
            ToolsetError: There is no such attack, or it does not know the model.
        """
        if (name, model) not in self._attacks:
            self._attacks[name, model] = make_attack(find_attack_class(name), self._suite, model)
        return self._attacks[name, model]

    def injections(self, name: str, model: str | None, user_task: str, injection_task: str) -> dict[str, str]:
        """What the attack writes into each injection vector that the user task comes across.

        Raises:
            ToolsetError: The pair can't be attacked.
        """
        key = (name, model, user_task, injection_task)
        if key not in self._injections:
            pair = f"attack {name!r} on {user_task} with {injection_task} of {self._suite.name}"
            attack = self.attack(name, model)
            try:
                written = attack.attack(
                    self._suite.get_user_task_by_id(user_task),
                    self._suite.get_injection_task_by_id(injection_task),
                )
            except Exception as error:  # an attack may be a user's own, and raise anything
                raise ToolsetError(f"{pair}: {type(error).__name__}: {error}") from error
            self._injections[key] = self._copy_injections(pair, written)
        return self._injections[key]

    def _copy_injections(self, pair: str, written: Any) -> dict[str, str]:
        """Copies what an attack returned, which it may change later.

        Raises:
            ToolsetError: It is no mapping of the suite's injection vectors to texts.
        """
        if not isinstance(written, Mapping):
            raise ToolsetError(
                f"{pair}: attack() must return a mapping of injection vectors to texts, got "
                f"{type(written).__name__}: {written!r:.100}"
            )
        texts = cast(Mapping[Any, Any], written)
        for vector, text in texts.items():
            if vector not in self._vectors:
                raise ToolsetError(
                    f"{pair}: the suite has no injection vector {vector!r}; it has {', '.join(self._vectors)}"
                )
            if not isinstance(text, str):
                given = f"{type(text).__name__}: {text!r:.100}"
                raise ToolsetError(f"{pair}: injection vector {vector!r} takes a text, got {given}")
        return dict(texts)
