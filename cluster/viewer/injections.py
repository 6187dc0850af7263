"""Where an injection stands in what the policy read, and which calls it asked for."""

import json
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from cluster.viewer.state_tree import Node, diff_tree

log = logging.getLogger(__name__)

_ESCAPE = re.compile(r"\\[ntr\"'\\/ ]")
_WORD_PATTERN = re.compile(r"[^\W_]+")
_SUITES = "agentdojo.task_suite.load_suites"
_MIN_TEXT_LENGTH = 12
"""Letters and digits that a text must have to be looked for: shorter ones would be found everywhere."""
_MAX_TEXT_LENGTH = 4 * 2**20
"""Characters of a message that are looked through."""


def injected_texts(base: Any, initial: Any) -> list[str]:
    """What an attack put into an environment: the texts that the episode began with and the base lacks.

    Args:
        base: The base state.
        initial: The state in which the episode began.
    """
    found: list[str] = []
    _collect_texts(diff_tree(base, initial), found)
    return _longest_first(found)


def inserted_texts(pairs: Sequence[tuple[Any, Any]]) -> list[str]:
    """The texts that later values have and earlier ones lack.

    Args:
        pairs: Of each place of a state: the earlier value, and the later one.
    """
    found: list[str] = []
    for before, after in pairs:
        _collect_texts({"from": before, "to": after}, found)
    return _longest_first(found)


def _longest_first(texts: Sequence[str]) -> list[str]:
    """The texts that are long enough to be looked for, each once."""
    return sorted(
        {text.strip() for text in texts if len(_letters_with_places(text)[0]) >= _MIN_TEXT_LENGTH},
        key=len,
        reverse=True,
    )


def _collect_texts(node: Node, found: list[str]) -> None:
    if isinstance(node.get("to"), str):
        before = node["from"] if isinstance(node["from"], str) else ""
        found.append(_inserted_text(before, node["to"]))
    elif "to" in node or "added" in node:
        found.extend(_iterate_texts(node.get("to", node.get("added"))))
    for _, child in node.get("object", node.get("array", [])):
        _collect_texts(child, found)


def _iterate_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children: list[Any] = []
    if isinstance(value, dict):
        children = list(cast(dict[str, Any], value).values())
    elif isinstance(value, list):
        children = cast(list[Any], value)
    return [text for child in children for text in _iterate_texts(child)]


def _inserted_text(before: str, after: str) -> str:
    """What `after` has between the beginning and the end that it shares with `before`."""
    start, shorter = 0, min(len(before), len(after))
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return after[start : len(after) - end]


def find_spans(text: str, injected: Sequence[str]) -> list[tuple[int, int]]:
    """Where injected texts stand in a message, as pairs of first and one past the last character.

    Tools print an environment as YAML or JSON, which break lines, indent and escape; so only letters and
    digits are compared.
    """
    if not injected or not text:
        return []
    letters, places = _letters_with_places(text[:_MAX_TEXT_LENGTH])
    spans: list[tuple[int, int]] = []
    for wanted in injected:
        needle, kept = _letters_with_places(wanted)
        before, after = wanted[: kept[0]], wanted[kept[-1] + 1 :]
        at = letters.find(needle)
        while at >= 0:
            start, end = places[at], places[at + len(needle) - 1] + 1
            start -= len(before) if before and text[:start].endswith(before) else 0
            end += len(after) if after and text.startswith(after, end) else 0
            spans.append((start, end))
            at = letters.find(needle, at + len(needle))
    return _merge_spans(spans)


def _letters_with_places(text: str) -> tuple[str, list[int]]:
    """A text's letters and digits, and where each stands."""
    plain = _ESCAPE.sub("  ", text)
    kept: list[str] = []
    places: list[int] = []
    for word in _WORD_PATTERN.finditer(plain):
        kept.append(word[0])
        places.extend(range(word.start(), word.end()))
    return "".join(kept), places


def _merge_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class AgentDojoSuites:
    """AgentDojo's suites, which take seconds to load: a thread does it, and nobody waits."""

    def __init__(self) -> None:
        self._loader: threading.Thread | None = None
        self._lock = threading.Lock()

    def is_loaded(self) -> bool:
        """Whether the suites are there, or are known not to be; has them loaded."""
        with self._lock:
            if self._loader is None:
                self._loader = threading.Thread(target=_load_suites, daemon=True)
                self._loader.start()
            return not self._loader.is_alive()

    def wait(self) -> None:
        """Waits for the suites."""
        self.is_loaded()
        assert self._loader is not None
        self._loader.join()


AGENTDOJO_SUITES = AgentDojoSuites()
"""The suites of this process."""


def _load_suites() -> None:
    try:
        import_module(_SUITES)
    except Exception as error:  # noqa: BLE001 - the calls are then not marked
        log.info("AgentDojo cannot be loaded: %s", error)


@dataclass(frozen=True)
class WantedCall:
    """A call that a task's ground truth makes."""

    function: str
    arguments: dict[str, Any]

    def is_made_by(self, name: str, arguments: str) -> bool:
        """Whether this call of the policy's does the same: the same tool, the same arguments."""
        if name != self.function:
            return False
        try:
            given: Any = json.loads(arguments)
        except ValueError:
            return False
        if not isinstance(given, dict):
            return False
        values = cast(dict[str, Any], given)
        return all(
            _comparable_value(values.get(key)) == _comparable_value(want)
            for key, want in self.arguments.items()
        )


def _comparable_value(value: Any) -> str:
    if isinstance(value, str):
        return _letters_with_places(value)[0].lower() or value
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return str(float(value))
    return _letters_with_places(json.dumps(value, sort_keys=True, default=str))[0].lower()


@dataclass(frozen=True)
class TaskCalls:
    """The calls of an episode's ground truths."""

    own: list[WantedCall]
    """Those of the user's task."""
    injected: list[WantedCall]
    """Those that the injection asks for, less those that the user's own task asks for, too. Of a call's
    arguments, those count that the injected texts name; where they name none, all."""


def find_task_calls(
    version: str,
    suite: str,
    injection_task: str | None,
    user_task: str | None,
    state: Any,
    injected: Sequence[str],
) -> TaskCalls:
    """The calls of the ground truths of an episode's tasks.

    Args:
        version: AgentDojo's benchmark version.
        suite: The suite.
        injection_task: The injection's task; None: there is none.
        user_task: The user's task; None: there is none.
        state: The state in which the episode began.
        injected: What the attack put there.

    Returns:
        The calls; none where AgentDojo here does not know the suite, or the tasks have no calls.
    """
    try:
        suites: Any = import_module(_SUITES)
        found: Any = suites.get_suite(version, suite)
        environment = found.environment_type.model_validate(state)
        own = (
            [] if user_task is None else _read_ground_truth(found.get_user_task_by_id(user_task), environment)
        )
        calls = (
            []
            if injection_task is None
            else _read_ground_truth(found.get_injection_task_by_id(injection_task), environment)
        )
    except Exception as error:  # noqa: BLE001 - a suite of the user's own, and whatever it raises
        log.info("the calls of %s/%s/%s are not to be had: %s", suite, user_task, injection_task, error)
        return TaskCalls([], [])
    return TaskCalls(own, [_names_injected(call, injected) for call in calls if call not in own])


def _names_injected(call: WantedCall, injected: Sequence[str]) -> WantedCall:
    named = {
        name: value
        for name, value in call.arguments.items()
        if (text := str(value)) and any(text in one for one in injected)
    }
    return WantedCall(call.function, named or call.arguments)


def _read_ground_truth(task: Any, environment: Any) -> list[WantedCall]:
    return [WantedCall(call.function, dict(call.args)) for call in task.ground_truth(environment)]
