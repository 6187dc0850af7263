"""Tests that are played in a process of their own, since they end all processes below the one they are in."""

import functools
import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

_PATIENCE = 600.0


def played_apart(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same test of a folder, played by a process that has no child but those that the test starts."""

    @functools.wraps(test)
    def play(tmp_path: Path) -> None:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(_play, test.__module__, test.__name__, tmp_path).result(timeout=_PATIENCE)

    return play


def _play(module: str, name: str, folder: Path) -> None:
    test = getattr(importlib.import_module(module), name)
    test.__wrapped__(folder)
