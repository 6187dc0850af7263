"""Runs at a URI on machines of their own, which share a bucket that can fail."""

from pathlib import Path

import pytest

from cluster.config import RunConfig
from cluster.dataset.dataset import episode_statuses
from cluster.dataset.remote import local_folder
from cluster.dataset.run_folder import Target
from tests.cluster.synthetic import episode, result
from tests.helpers.failing_storage import SCHEME

CONFIG = RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}})
URI = f"{SCHEME}://bucket/run"


class Machines:
    """Machines, each with a cache folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch

    def use(self, name: str) -> None:
        self._monkeypatch.setenv("KUMITE_CACHE", str(self._folder / name))


async def play(target: Target, numbers: range, *, copies: bool = True, commits: bool = True) -> None:
    """What a run does with its target; without `copies`, its machine is gone before the last one."""
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            for number in numbers:
                await dataset.append(result(episode(number)))
            if commits:
                await dataset.commit()
            if copies and target.remote is not None:
                target.remote.copy()


def in_bucket() -> set[str]:
    return set(episode_statuses(local_folder(URI)))


def ids(numbers: range) -> set[str]:
    return {f"{number:016x}" for number in numbers}
