"""The AgentDojo toolset: suites, tools, injections and scoring, all by AgentDojo's own code."""
# ruff: noqa: E402 - the SDKs must be replaced before agentdojo is imported

import json

from sandbox_images.agentdojo import llm_sdks

llm_sdks.install_placeholders()

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from agentdojo.agent_pipeline.tool_execution import ToolsExecutor, tool_result_to_str
from agentdojo.base_tasks import BaseUserTask
from pydantic import ValidationError

from sandbox_images.agentdojo.attacks import find_attack_class
from sandbox_images.agentdojo.comparison import install_fast_comparison
from sandbox_images.agentdojo.dumper import dump_yaml
from sandbox_images.agentdojo.imports import add_import_folder, is_import_path
from sandbox_images.agentdojo.loaded_suite import LoadedSuite
from sandbox_images.agentdojo.session import AgentDojoSession, InjectionsSession
from sandbox_images.agentdojo.suites import load_suites
from sandbox_images.tool_host.toolset import Session, Toolset, ToolsetError

_DUMP_FUNCTIONS: dict[str, Callable[[Any], str]] = {
    "yaml": dump_yaml,
    # AgentDojo's own JSON format, `json.dumps`, raises on the dates that many tools give.
    "json": partial(json.dumps, default=str),
}


class AgentDojoToolset(Toolset):
    """Suites of one benchmark version, and suites of a user's own.

    Args:
        version: The benchmark version, as AgentDojo registers it: `v1.2.2`.
        suites: The suites to load: names of AgentDojo's, import paths of others.
        folder: Where to look for modules that are not installed.
        tool_output: How a tool's result is written for the policy to read.
    """

    weakest_recycle: ClassVar = "fork"
    runs_model_code: ClassVar = False

    def __init__(
        self,
        version: str,
        suites: list[str],
        folder: str | None = None,
        tool_output: Literal["yaml", "json"] = "yaml",
    ) -> None:
        self._version = version
        self._names = suites
        self._folder = folder
        self._executor = ToolsExecutor(partial(tool_result_to_str, dump_fn=_DUMP_FUNCTIONS[tool_output]))
        self._suites: dict[str, LoadedSuite] = {}

    def preload(self) -> None:
        """Loads the suites and builds each one's default environment."""
        install_fast_comparison()
        add_import_folder(self._folder)
        for path, (name, suite) in zip(
            self._names, load_suites(self._version, self._names).items(), strict=True
        ):
            self._suites[name] = loaded = LoadedSuite(self._version, suite)
            if is_import_path(path):
                continue  # what its tools keep elsewhere than in the environment has to begin as it is
            for task in suite.user_tasks.values():
                with suppress(Exception):  # a task that is broken shows in its own episodes
                    self._rehearse_task(loaded, task)

    def _rehearse_task(self, loaded: LoadedSuite, task: BaseUserTask) -> None:
        """Plays a task: what Python and pydantic build on first use is then there for every session.

        All 97 take half a second, and make an episode a tenth cheaper than one alone does.
        """
        environment, before = loaded.environments.copy({}), loaded.environments.copy({})
        fresh = partial(loaded.environments.fresh, {})
        session = AgentDojoSession(loaded, task, None, environment, before, fresh, False, self._executor)
        session.state_patch()
        for turn in session.oracle():
            for call in turn["tool_calls"]:
                session.call(call["name"], call["arguments"])
                session.state_patch()
        session.evaluate({"output": task.GROUND_TRUTH_OUTPUT, "unexecuted": []})

    def prepare(self, task: dict[str, Any]) -> dict[str, str]:
        """The injections of the task's attack: those that the task brings along, or from the cache.

        Attacks of a user's own, and those on a suite of a user's own, are computed by a session that is
        opened for that: they may take long.
        """
        if task.get("attack") is None or task.get("computes_injections"):
            return {}
        if task.get("injections") is not None:
            return dict(task["injections"])
        loaded = self._find_suite(task)
        return loaded.attacks.injections(
            task["attack"], task.get("attack_model"), task["user_task"], task["injection_task"]
        )

    def tool_schemas(self, tools_id: str) -> list[dict[str, Any]]:
        """A suite's tools."""
        for loaded in self._suites.values():
            if loaded.tools_id == tools_id:
                return loaded.tools
        return super().tool_schemas(tools_id)

    def base_state(self, state_id: str) -> Any:
        """A suite's default environment as JSON."""
        for loaded in self._suites.values():
            if loaded.base_state.id == state_id:
                return loaded.base_state.json
        return super().base_state(state_id)

    def open(self, task: dict[str, Any], prepared: dict[str, str], scratch: Path) -> Session:
        """An environment with the injections in it, and the suite's tools.

        With `computes_injections`, a session whose state is what the task's attack injects.
        """
        loaded = self._find_suite(task)
        if task.get("computes_injections"):
            injections = loaded.attacks.injections(
                task["attack"], task.get("attack_model"), task["user_task"], task["injection_task"]
            )
            return InjectionsSession(injections, find_attack_class(task["attack"]).is_dos_attack)
        denies_service = task.get("denies_service")  # known where the injections are: no module to import
        if denies_service is None:
            attack = task.get("attack")
            denies_service = attack is not None and find_attack_class(attack).is_dos_attack
        user_task = loaded.task(task["user_task"]) if task.get("user_task") else None
        injection_task = loaded.task(task["injection_task"]) if task.get("injection_task") else None
        try:
            environment, before = loaded.environments.pair(prepared)
        except Exception as error:  # a suite's own loader may raise anything
            broken = isinstance(error, yaml.YAMLError | ValidationError)
            verb = "breaks the YAML of AgentDojo's" if broken else "does not fit the suite's"
            raise ToolsetError(
                f"attack {task.get('attack')!r} on {task.get('user_task')} with {task.get('injection_task')} "
                f"of {task['suite']}: what it injects {verb} environment: {error}"
            ) from error
        fresh = partial(loaded.environments.fresh, prepared)
        return AgentDojoSession(
            loaded, user_task, injection_task, environment, before, fresh, denies_service, self._executor
        )

    def _find_suite(self, task: dict[str, Any]) -> LoadedSuite:
        if task.get("suite") not in self._suites:
            raise ToolsetError(
                f"suite {task.get('suite')!r} is not loaded; loaded are {', '.join(self._suites)}"
            )
        return self._suites[task["suite"]]
