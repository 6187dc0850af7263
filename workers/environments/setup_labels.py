"""Labels that tell runs of one environment apart: what their arguments set up around the tasks."""

import json
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from workers.settings import EnvironmentSettings

_DEFAULT_PRESET = "agentdojo-default"


class SetupLabels(TypedDict):
    """Columns of an episode that are the same in all episodes of a run."""

    defense: str | None
    preset: str | None
    reward_spec: str | None


def setup_labels(environment: EnvironmentSettings) -> SetupLabels:
    """The defense, the preset and the reward that an environment is set up with; null in other environments.

    Args:
        environment: The environment, with its arguments.
    """
    if environment.id != "agentdojo":
        return SetupLabels(defense=None, preset=None, reward_spec=None)
    args = environment.args
    preset = args.get("preset")
    return SetupLabels(
        defense=_defense_label(args, preset),
        preset=None if preset is None else _label_text(preset),
        reward_spec=_reward_label(args),
    )


def _defense_label(args: Mapping[str, Any], preset: Any) -> str | None:
    """The defense's name; JSON text where it has arguments, or where there are several of them."""
    given: Any = args.get("defense")
    if given is None and isinstance(preset, str) and preset != _DEFAULT_PRESET:
        return preset.removeprefix("agentdojo-")
    choices = cast(list[Any], given) if isinstance(given, list) else [] if given is None else [given]
    named: list[Any] = [choice["id"] if _is_only_named(choice) else choice for choice in choices]
    if not named:
        return None
    return _label_text(named[0] if len(named) == 1 else named)


def _is_only_named(choice: Any) -> bool:
    return isinstance(choice, Mapping) and "id" in choice and not choice.get("args")


def _reward_label(args: Mapping[str, Any]) -> str:
    """The reward's preset; JSON text where it is made of weights, or where single steps are rewarded."""
    reward, steps = args.get("reward", "utility"), args.get("step_reward")
    return _label_text(reward) if steps is None else _label_text({"reward": reward, "step_reward": steps})


def _label_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
