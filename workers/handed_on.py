"""Environment variables that the driver hands on to workers, and what of them must not be written down."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache

from pydantic import SecretStr

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_MIN_SECRET_LENGTH = 8
"""Characters of a value below which it is no secret, or none that can be told from other text."""
_PROCESS_PREFIXES = ("RAY_", "PYTHON", "LD_", "CUDA_VISIBLE_DEVICES")
"""Beginnings of names that belong to the process itself: how it was started, and by what."""


def select_worker_variables(names: Iterable[str], *, all_of_them: bool) -> dict[str, SecretStr]:
    """Selects variables of this process for the workers' processes.

    Args:
        names: Those that the config names.
        all_of_them: Whether all other variables are selected too, except those of Ray and Python themselves.

    Raises:
        KeyError: One that is named is not set.
    """
    chosen = {name: os.environ[name] for name in names}
    if all_of_them:
        chosen = {n: v for n, v in os.environ.items() if not n.startswith(_PROCESS_PREFIXES)} | chosen
    return {name: SecretStr(value) for name, value in chosen.items()}


def process_environment(given: Mapping[str, SecretStr], *, instead: bool) -> dict[str, str]:
    """Returns the environment of a process that a worker starts.

    Args:
        given: The variables that the driver has handed on.
        instead: Whether these replace this process's own variables, except those of Ray and Python.
    """
    own = {
        n: v
        for n, v in os.environ.items()
        if not instead or n.startswith((*_PROCESS_PREFIXES, "OMP_", "PATH"))
    }
    return own | {name: value.get_secret_value() for name, value in given.items()}


def hide_secrets(text: str) -> str:
    """The same text without the values of variables whose names look like a secret's."""
    for value, name in _find_secrets():
        if value in text:
            text = text.replace(value, f"<{name}>")
    return text


@cache
def _find_secrets() -> list[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_LENGTH and not value.startswith("/"):
            found |= {(value, name), (json.dumps(value)[1:-1], name)}
    return sorted(found, key=lambda each: -len(each[0]))
