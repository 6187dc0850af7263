"""Environment variables that the worker gives a session: where its gateway is, say."""

import os
from collections.abc import Mapping

_given: dict[str, str] = {}


def set_given(variables: Mapping[str, str]) -> None:
    """Notes a session's variables, and puts them in this process's environment."""
    _given.update(variables)
    os.environ.update(variables)


def given_variables() -> dict[str, str]:
    """The session's variables, for a toolset that does not hand its whole environment to what it starts."""
    return dict(_given)
