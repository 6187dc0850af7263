"""Which of a taskset's tasks are played, by `select` and `num_tasks` of `environment.args`."""

import random
from collections.abc import Iterable
from typing import Any, cast

from pydantic import ValidationError

from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

BOUND = "num_tasks"
"""A key of `environment.args` beside v1's own: how many tasks of the taskset, at most."""
SELECT = "select"
"""A key of `environment.args` beside v1's own: the block `[select]`, which verifiers' runner has."""
_KEYS_OF_031 = {"shuffle", "seed", "limit"}


def select_tasks(settings: EnvironmentSettings, taskset: Any) -> list[tuple[int, Any]]:
    """The tasks, each with its place among all that the taskset makes.

    Args:
        settings: Which environment, with which arguments.
        taskset: verifiers' taskset.

    Raises:
        EnvironmentLoadError: The keys are wrong, or the tasks have no end and there is no bound.
    """
    selection = _read_keys(settings.args)
    if hasattr(taskset, "select"):
        return _select(settings, taskset, selection)
    if unknown := sorted(selection.keys() - _KEYS_OF_031):
        raise EnvironmentLoadError(
            f"environment.args.{SELECT}.{unknown[0]}: verifiers {_version()} selects by "
            f"{', '.join(sorted(_KEYS_OF_031))} only; environment.requirements: ['verifiers>=0.4.0'] has more"
        )
    return _select_as_031(settings, taskset, selection)


def _read_keys(args: dict[str, Any]) -> dict[str, Any]:
    given: Any = args.get(SELECT) or {}
    if not isinstance(given, dict):
        raise EnvironmentLoadError(
            f"environment.args.{SELECT}: got {given!r}; give an object with keys, as in verifiers' [select]"
        )
    selection = dict(cast(dict[str, Any], given))
    bound: Any = args.get(BOUND)
    if bound is None:
        return selection
    if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
        raise EnvironmentLoadError(
            f"environment.args.{BOUND}: got {bound!r}; give a number of tasks, at least 1"
        )
    if selection.get("limit") is not None:
        raise EnvironmentLoadError(
            f"environment.args.{BOUND} and environment.args.{SELECT}.limit say the same; leave one out"
        )
    return {**selection, "limit": bound}


def _select(settings: EnvironmentSettings, taskset: Any, selection: dict[str, Any]) -> list[tuple[int, Any]]:
    from importlib import import_module

    config_class: Any = import_module("verifiers.v1.configs.select").SelectConfig
    try:
        view = taskset.select(config_class.model_validate(selection))
    except ValidationError as error:
        said = [
            f"  environment.args.{SELECT}.{'.'.join(map(str, entry['loc']))}: {entry['msg']}"
            for entry in error.errors()
        ]
        raise EnvironmentLoadError(
            f"environment.args.{SELECT}: verifiers does not take it:\n" + "\n".join(said)
        ) from error
    except ValueError as error:  # what has no end cannot be shuffled, or searched
        raise EnvironmentLoadError(f"environment.args.{SELECT}: {error}") from error
    if not view.bounded:
        raise _endless(settings)
    return [(int(task.data.idx), task) for task in view]


def _select_as_031(
    settings: EnvironmentSettings, taskset: Any, selection: dict[str, Any]
) -> list[tuple[int, Any]]:
    """What verifiers' runner does up to 0.3.1: shuffles them, or not, and takes the first."""
    limit, shuffle, seed = selection.get("limit"), selection.get("shuffle", False), selection.get("seed", 0)
    for name, value, kind in (
        ("shuffle", shuffle, bool),
        ("seed", seed, int),
        ("limit", 1 if limit is None else limit, int),
    ):
        if type(value) is not kind or (name == "limit" and value < 1):
            raise EnvironmentLoadError(
                f"environment.args.{SELECT}.{name}: got {value!r}; give {_WORDS[kind]}"
            )
    if taskset.INFINITE and shuffle:
        raise EnvironmentLoadError(
            f"environment.args.{SELECT}.shuffle: {settings.id} yields tasks without end; leave it out"
        )
    if taskset.INFINITE and limit is None:
        raise _endless(settings)
    if not shuffle:
        first: Iterable[Any] = taskset if limit is None else taskset.head(limit)
        return list(enumerate(first))
    every: Iterable[Any] = taskset
    tasks = list(enumerate(every))
    random.Random(seed).shuffle(tasks)
    return tasks[:limit]


_WORDS: dict[type, str] = {bool: "`true` or `false`", int: "a whole number, at least 1 for `limit`"}


def _endless(settings: EnvironmentSettings) -> EnvironmentLoadError:
    return EnvironmentLoadError(
        f"environment.args.{BOUND}: {settings.id} yields tasks without end; give how many are played"
    )


def _version() -> str:
    from importlib.metadata import version

    return version("verifiers")
