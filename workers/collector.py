"""Python's collector of cyclic garbage, while a process imports much."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
_SELDOM = (50_000, 10, 10)
"""Allocations until it looks at the youngest generation, and how many such looks until at an older one."""


def collect_as_usual() -> None:
    """Has it look for garbage as often as in any process of Python, as an environment's code expects."""
    gc.set_threshold(*_USUAL)


@contextmanager
def collect_seldom() -> Generator[None]:
    """Has it look for garbage less often: modules are none, and it took a fifth of the time of imports."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
