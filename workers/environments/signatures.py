"""Signatures of what verifiers calls by named arguments, worked out once."""

import inspect
from functools import wraps
from typing import Any


def with_signature(function: Any) -> Any:
    """The same function, with its signature at hand.

    verifiers looks at the signature of every stop condition and every handler, each time before it calls
    one; for a method, `inspect` takes 30 µs to work it out: a seventh of a worker's time on an episode.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return call
