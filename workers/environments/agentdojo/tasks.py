"""Which AgentDojo tasks a config selects, as dataset rows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from workers.environments.arguments import check_distinct
from workers.errors import EnvironmentLoadError
from workers.settings import Settings

Mode = Literal["benign", "attack", "injection"]
_ROOT = Path(__file__).resolve().parents[3]
_CATALOG_TIMEOUT = 120


class TaskSelection(Settings):
    """Which tasks: the part of `environment.args` that names them."""

    version: str = "v1.2.2"
    """Benchmark version, as AgentDojo registers it."""
    suites: list[str] | None = None
    """Suites to play: `banking`, `slack`, `travel`, `workspace`, or the import path of a `TaskSuite` of
    your own, `package.module:suite`. Null: AgentDojo's four."""
    user_tasks: list[str] | None = None
    """User tasks to play, in every suite that has them. Null: all."""
    injection_tasks: list[str] | None = None
    """Injection tasks to play, in every suite that has them. Null: all. A denial-of-service attack does
    not depend on the injection task's goal, so it always uses the suite's first one, as AgentDojo does."""
    mode: list[Mode] = Field(default=["benign"], min_length=1)
    """`benign`: each user task, without attack. `attack`: each user task with each injection task's goal
    injected. `injection`: each injection task, as if the user had asked for it. One of them, or a list."""
    attack: str | None = None
    """Attack for mode `attack`: its name in AgentDojo's registry, or the import path of a `BaseAttack`
    subclass of your own, `package.module:Class`."""
    attack_model: str | None = None
    """Name of the model under attack, which is passed to the attack. Null: the name of the policy's model.
    AgentDojo's attacks that address the model by name accept only names that they know; use `local` for any
    other model."""

    attack_timeout: float = Field(default=120.0, gt=0)
    """Seconds that an attack may take to compute what it injects for one pair of tasks, where the attack or
    the suite is your own."""

    @field_validator("mode", mode="before")
    @classmethod
    def _list_modes(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("suites", "user_tasks", "injection_tasks")
    @classmethod
    def _check_not_empty(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("an empty list selects nothing; leave it out, or give null, for all")
        return value

    _distinct = field_validator("suites", "user_tasks", "injection_tasks", "mode")(check_distinct)


def load_catalog(
    version: str,
    suites: Iterable[str] | None = None,
    attack: str | None = None,
    folder: Path | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """What AgentDojo has in a version, and what of a user's own is asked for beside it.

    Args:
        version: The version.
        suites: Suites; those that are import paths are looked up.
        attack: An attack; looked up if it is an import path.
        folder: Where to look for modules that are not installed.
        target: Name of the model that an attack of the user's own is made for.

    Raises:
        EnvironmentLoadError: AgentDojo cannot be read, has no such version, or a user's own module does
            not import.
    """
    own_suites = tuple(path for path in suites or () if ":" in path)
    own_attack = attack if attack and ":" in attack else None
    return _read_catalog(version, own_suites, own_attack, folder, target if own_attack else None)


@cache
def _read_catalog(
    version: str, suites: tuple[str, ...], attack: str | None, folder: Path | None, target: str | None
) -> dict[str, Any]:
    request = {
        "version": version,
        "suites": suites,
        "attack": attack,
        "target": target,
        "search_path": str(folder.resolve()) if folder else None,
    }
    command = [sys.executable, "-m", "sandbox_images.agentdojo.catalog", json.dumps(request)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_CATALOG_TIMEOUT, check=True
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise EnvironmentLoadError(f"AgentDojo's tasks cannot be read: {' '.join(said)}") from error
    found = json.loads(done.stdout)
    if version not in found["versions"]:
        raise EnvironmentLoadError(
            f"environment.args.version: AgentDojo has no version {version!r}; it has "
            f"{', '.join(found['versions'])}"
        )
    for field, message in found["problems"].items():
        raise EnvironmentLoadError(f"environment.args.{field}: {message}")
    return found


def make_rows(
    selection: TaskSelection,
    system_message: str | None = None,
    policy: str | None = None,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Dataset rows of the selected tasks, suite by suite, in AgentDojo's order.

    Args:
        selection: Which tasks.
        system_message: In place of AgentDojo's own.
        policy: Name of the model that plays.
        folder: Where to look for modules that are not installed.

    Raises:
        EnvironmentLoadError: The selection names something that AgentDojo does not have.
    """
    target = policy if selection.attack_model is None else selection.attack_model
    known = load_catalog(selection.version, selection.suites, selection.attack, folder, target)
    _check_selection(selection, known)
    model = _attack_model(selection, known, policy)
    named = model is not None and known["attacks"][selection.attack]["addresses_model"]
    system = known["system_message"] if system_message is None else system_message
    return [
        {
            "example_id": index,
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            "answer": "",
            "info": info,
        }
        for index, (prompt, info) in enumerate(_select_rows(selection, known, model, named))
    ]


def _select_rows(
    selection: TaskSelection, known: dict[str, Any], model: str | None, named: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in selection.suites or known["suites"]:
        suite = known["suites"][name]
        task_id = [name] if ":" in name else [selection.version, name]
        user_tasks = _select_wanted(suite["user_tasks"], selection.user_tasks)
        injection_tasks = _select_wanted(suite["injection_tasks"], selection.injection_tasks)
        for mode in selection.mode:
            if mode == "injection":
                for injection_id, injection_task in injection_tasks.items():
                    info = _make_info(task_id, suite, injection_task, None, injection_id)
                    yield injection_task["prompt"], info
                continue
            for user_id, user_task in user_tasks.items():
                if mode == "benign":
                    yield user_task["prompt"], _make_info(task_id, suite, user_task, user_id, None)
                    continue
                assert selection.attack is not None
                pairs: Iterable[str] = injection_tasks
                if known["attacks"][selection.attack]["is_dos"]:
                    pairs = list(suite["injection_tasks"])[:1]
                for injection_id in pairs:
                    attack = (selection.attack, model)
                    info = _make_info(task_id, suite, user_task, user_id, injection_id, attack, named)
                    yield user_task["prompt"], info


def _make_info(
    suite_id: list[str],
    suite: dict[str, Any],
    task: dict[str, Any],
    user_id: str | None,
    injection_id: str | None,
    attack: tuple[str | None, str | None] = (None, None),
    named: bool = False,
) -> dict[str, Any]:
    """Makes the `info` of a row; a model is part of a task's id where AgentDojo's attack calls it by name."""
    name, model = attack
    parts = [*suite_id, user_id, injection_id, name]
    if named and model != "local":
        parts.append(model)
    return {
        "task_id": "/".join(part for part in parts if part),
        "suite": suite["name"],
        "user_task": user_id,
        "injection_task": injection_id,
        "attack": name,
        "attack_model": model,
        "difficulty": task["difficulty"],
    }


def _select_wanted(tasks: dict[str, Any], wanted: list[str] | None) -> dict[str, Any]:
    return tasks if wanted is None else {name: task for name, task in tasks.items() if name in wanted}


def _check_selection(selection: TaskSelection, known: dict[str, Any]) -> None:
    suites = known["suites"]
    for name in selection.suites or []:
        if name not in suites:
            raise _refuse_unknown("suites", "suite", name, suites, selection.version)
    chosen = [suites[name] for name in selection.suites or suites]
    names = [suite["name"] for suite in chosen]
    for name in names:
        if names.count(name) > 1:
            raise EnvironmentLoadError(
                f"environment.args.suites: {names.count(name)} of them call themselves {name!r}; play them "
                "in runs of their own"
            )
    for kind in ("user_tasks", "injection_tasks"):
        has = [task for suite in chosen for task in suite[kind]]
        wanted: list[str] = getattr(selection, kind) or []
        for name in wanted:
            if name not in has:
                raise _refuse_unknown(
                    kind, kind[:-1].replace("_", " "), name, dict.fromkeys(has), selection.version
                )
    if "attack" in selection.mode:
        if selection.attack is None:
            has = ", ".join(_playable_attacks(known))
            raise EnvironmentLoadError(
                f"environment.args.attack: mode `attack` needs one; AgentDojo has {has}"
            )
        if selection.attack not in known["attacks"]:
            raise _refuse_unknown(
                "attack", "attack", selection.attack, _playable_attacks(known), selection.version
            )
        if selection.attack == "manual":
            raise EnvironmentLoadError(
                "environment.args.attack: `manual` asks a person for every injection; choose another one: "
                f"{', '.join(_playable_attacks(known))}"
            )


def _playable_attacks(known: dict[str, Any]) -> list[str]:
    """The attacks that can be played: all but the one that asks a person."""
    return [attack for attack in known["attacks"] if attack != "manual"]


def _attack_model(selection: TaskSelection, known: dict[str, Any], policy: str | None) -> str | None:
    """The name that the attack is given of its target, as AgentDojo gives it to every attack."""
    if "attack" not in selection.mode:
        return None
    model = policy if selection.attack_model is None else selection.attack_model
    assert selection.attack is not None
    if ":" in selection.attack or not known["attacks"][selection.attack]["addresses_model"]:
        return model  # whether an attack of the user's own knows the name, it has said itself
    # AgentDojo looks for the names it knows within the one it is given.
    if model is not None and any(name in model for name in known["models"]):
        return model
    given = (
        f"got {selection.attack_model!r}"
        if selection.attack_model is not None
        else f"the policy is called {policy!r}"
        if policy is not None
        else "no policy gives its name here"
    )
    raise EnvironmentLoadError(
        f"environment.args.attack_model: attack {selection.attack!r} calls the model by name, and AgentDojo "
        f"must know it: {given}. Give one that it knows, `local` for a model that it does not: "
        f"{', '.join(known['models'])}"
    )


def _refuse_unknown(
    field: str, noun: str, given: str, known: Iterable[str], version: str
) -> EnvironmentLoadError:
    return EnvironmentLoadError(
        f"environment.args.{field}: AgentDojo {version} has no {noun} {given!r}; it has {', '.join(known)}"
    )
