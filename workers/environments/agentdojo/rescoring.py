"""AgentDojo's own checks, asked again over an episode's recorded states: nothing is played."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter

from workers.environments.agentdojo.rewards import Metric, security_metrics
from workers.records import EpisodeRecord
from workers.state_patches import apply_state_patch

_Adapter: Any = TypeAdapter


class StateUnknown(Exception):
    """An episode's states cannot be scored here."""


class StateScorer:
    """Scores recorded episodes with a benchmark version's checks.

    Args:
        version: The benchmark version.
        suites: Suites of a user's own, by import path, beside AgentDojo's.
        folder: Where to look for modules that are not installed. None: nowhere else.

    Raises:
        ToolsetError: AgentDojo has no such version, or a suite cannot be imported.
    """

    def __init__(self, version: str, suites: Sequence[str], folder: Path | None) -> None:
        # AgentDojo takes seconds to import, and a worker does without it.
        from agentdojo.task_suite.load_suites import get_suites

        from sandbox_images.agentdojo.imports import add_import_folder, is_import_path
        from sandbox_images.agentdojo.suites import load_suites

        add_import_folder(None if folder is None else str(folder))
        self._suites: dict[str, Any] = {
            **get_suites(version),
            **load_suites(version, filter(is_import_path, suites)),
        }

    def has_states(self, record: EpisodeRecord) -> bool:
        """Whether all that the checks look at was recorded."""
        states = [record.initial_state_patch, *(step.state_patch for step in record.steps)]
        return record.initial_state_id is not None and None not in states

    def score(self, record: EpisodeRecord, base: Any) -> dict[Metric, float | None]:
        """The metrics that AgentDojo's checks give: `utility`, `attack_success`, `utility_and_security`.

        Args:
            record: The episode.
            base: The base state that it names.

        Raises:
            StateUnknown: The suite or a task is not known here, or a state is none of the suite's.
        """
        suite = self._suites.get(record.suite or "")
        if suite is None:
            raise StateUnknown(f"there is no suite {record.suite!r}; there are {', '.join(self._suites)}")
        before, after = (
            _build_environment(suite.environment_type, state) for state in _end_states(record, base)
        )
        try:
            own = suite.get_user_task_by_id(record.user_task) if record.user_task else None
            injected = (
                suite.get_injection_task_by_id(record.injection_task) if record.injection_task else None
            )
        except KeyError as error:
            raise StateUnknown(f"suite {record.suite} has no task {error}") from error
        calls = _made_calls(record)

        def check(task: Any) -> bool:
            arguments = (before.model_copy(deep=True), after.model_copy(deep=True), calls)
            return bool(suite._check_task_result(task, _last_words(record), *arguments))

        utility = check(own or injected)
        attack_success: bool | None = None
        if record.attack is not None and _denies_service(record.attack):
            attack_success = not utility
        elif own is not None and injected is not None:
            attack_success = check(injected)
        return security_metrics(float(utility), None if attack_success is None else float(attack_success))


def _denies_service(attack: str) -> bool:
    from sandbox_images.agentdojo.attacks import find_attack_class

    return bool(find_attack_class(attack).is_dos_attack)


def _end_states(record: EpisodeRecord, base: Any) -> tuple[Any, Any]:
    """The states in which the episode began and ended."""
    initial = apply_state_patch(deepcopy(base), record.initial_state_patch, in_place=True)
    final = deepcopy(initial)
    for step in record.steps:
        final = apply_state_patch(final, step.state_patch, in_place=True)
    return initial, final


def _last_words(record: EpisodeRecord) -> list[Any]:
    """What the policy said last, or a defense in its place, as AgentDojo's checks take it."""
    from agentdojo.types import text_content_block_from_string

    last = record.steps[-1]
    ended = last.observations[-1] if last.observations else None
    content = ended.content if ended is not None and ended.role == "assistant" else last.action.content
    return [] if content is None else [text_content_block_from_string(content)]


def _made_calls(record: EpisodeRecord) -> list[Any]:
    """Every tool call of the conversation, run or not; one whose arguments are no object is none."""
    from agentdojo.functions_runtime import FunctionCall

    calls: list[Any] = []
    for step in record.steps:
        for call in step.action.tool_calls or []:
            try:
                arguments: Any = json.loads(call.function.arguments)
            except (ValueError, RecursionError):
                continue
            if isinstance(arguments, dict):
                calls.append(FunctionCall(function=call.function.name, args=cast(dict[str, Any], arguments)))
    return calls


def _build_environment(kind: type[BaseModel], state: Any) -> Any:
    """An environment of a suite in a recorded state.

    Validation alone would not do: AgentDojo's validators fill an inbox with the mails that it began with.

    Raises:
        StateUnknown: The state is not one of such an environment.
    """
    problem = "it comes out as another one"
    try:
        made = _build_value(kind, state)
        if made.model_dump(mode="json") == state:
            return made
    except ValueError as error:
        problem = str(error)
    raise StateUnknown(f"the recorded state is none of AgentDojo's {kind.__name__} here: {problem}")


def _build_value(kind: Any, value: Any) -> Any:
    """A value of a type from its JSON; the fields of models are set without their validators."""
    arguments: list[Any] = [one for one in get_args(kind) if one is not type(None)]
    origin: Any = get_origin(kind)
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return _build_model(kind, fields)
        if origin is dict:
            key = _Adapter(arguments[0])
            return {
                key.validate_python(_parse_key(arguments[0], name)): _build_value(arguments[1], one)
                for name, one in fields.items()
            }
    if origin is list and isinstance(value, list):
        return [_build_value(arguments[0], one) for one in cast(list[Any], value)]
    if len(arguments) == 1 and origin in (Union, UnionType) and value is not None:
        return _build_value(arguments[0], value)
    return _Adapter(kind).validate_json(json.dumps(value))


def _build_model(kind: type[BaseModel], fields: Mapping[str, Any]) -> BaseModel:
    model = kind.model_validate(fields)
    for name, field in kind.model_fields.items():
        if name in fields:
            vars(model)[name] = _build_value(field.annotation, fields[name])
    return model


def _parse_key(kind: Any, name: str) -> Any:
    """The key of a mapping, which JSON has as text."""
    return int(name) if kind is int else name
