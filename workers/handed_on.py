"""Environment variables that the driver hands on to workers, and what of them must not be written down."""

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from functools import cache

from pydantic import SecretStr

_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTHORIZATION|BEARER|(_|^)(PASS|PWD|PAT|AUTH)$",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"\w://[^/\s:@]*:([^/\s@]+)@")
_MIN_SECRET_LENGTH = 8
"""Characters of a value below which it is no secret, or none that can be told from other text."""
_PROCESS_PREFIXES = ("RAY_", "PYTHON", "LD_", "CUDA_VISIBLE_DEVICES")
"""Beginnings of names that belong to the process itself: how it was started, and by what."""
_RAYS_PREFIXES = ("RAY_", "OMP_", "CUDA_VISIBLE_DEVICES", "PYTHONBREAKPOINT", "PYTHONPATH")
"""Beginnings of names that Ray sets in its processes, or that a session has it set."""

_LOOK_EVERY = 1.0
"""Seconds after which the variables are read again, where there are as many as before: that takes 100 µs."""


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


def same_variables(these: Mapping[str, str], those: Mapping[str, str]) -> bool:
    """Whether two processes find the same variables, but for those that Ray gives its own."""

    def of_user(variables: Mapping[str, str]) -> dict[str, str]:
        return {n: v for n, v in variables.items() if not n.startswith(_RAYS_PREFIXES)}

    return of_user(these) == of_user(those)


def hide_secrets(text: str) -> str:
    """The same text without the values of variables whose names look like a secret's.

    A value that was set once is a secret from then on, also where the variable is set anew or gone.
    """
    for value, name in _secrets.values():
        if value in text:
            text = text.replace(value, f"<{name}>")
    return text


class _Secrets:
    """The values that are to be hidden."""

    def __init__(self) -> None:
        self._count, self._look_at = -1, -math.inf
        self._found: list[tuple[str, str]] = []

    def values(self) -> list[tuple[str, str]]:
        """Values with their names, each as it may stand in text, the longest first."""
        if len(os.environ) != self._count or time.monotonic() >= self._look_at:
            found = {
                (written, name)
                for name, value in os.environ.items()
                for secret in _secrets_in(name, value)
                if len(secret) >= _MIN_SECRET_LENGTH
                for written in _as_written(secret)
            }
            self._found = sorted(found.union(self._found), key=lambda each: -len(each[0]))
            self._count, self._look_at = len(os.environ), time.monotonic() + _LOOK_EVERY
        return self._found


_secrets = _Secrets()


def _secrets_in(name: str, value: str) -> list[str]:
    """What is secret in a variable: all of it, by its name, but no path of a file; or a password in a URL."""
    if _is_secret(name) and not (value.startswith("/") and os.path.exists(value)):
        return [value]
    return _PASSWORD_IN_URL.findall(value) if "://" in value else []


@cache
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


@cache
def _as_written(value: str) -> set[str]:
    """A value as it stands in text, in Python's quotes, and in JSON, which may hold one of these itself."""
    written = {value, repr(value)[1:-1]}
    for _ in range(2):
        written |= {json.dumps(each, ensure_ascii=a)[1:-1] for each in written for a in (True, False)}
    return written
