"""A replica's full weights while versions come: what acts for a request, and how often they are loaded."""

import asyncio
from pathlib import Path

import pytest
from fastapi import HTTPException

from cluster.policy.weights.full_weights import FullWeights
from cluster.policy.weights.versions import VersionFolder
from tests.helpers.weight_files import write_adapter, write_model


class Engine:
    """Loads what it is told to, once it may, and refuses some."""

    def __init__(self, versions: VersionFolder, *refuses: int) -> None:
        self.loaded: list[int] = []
        self.may = asyncio.Event()
        self.may.set()
        self._refuses = refuses
        self.weights = FullWeights(versions, self._reload)

    async def _reload(self, version: int) -> None:
        self.loaded.append(version)
        await self.may.wait()
        if version in self._refuses:
            raise ValueError("no room")

    async def ask(self, version: int | None) -> int:
        async with self.weights.acting(version) as acts:
            return acts


@pytest.fixture
def versions(tmp_path: Path) -> VersionFolder:
    """A deployment at its first version, with a checkpoint, 2, that not all replicas have."""
    write_model(tmp_path / "versions" / "v2")
    return VersionFolder(tmp_path / "versions")


async def waiting(*tasks: asyncio.Task[int]) -> bool:
    """Whether all of them wait, after as many turns of the event loop as they could need."""
    for _ in range(100):
        await asyncio.sleep(0)
    return not any(task.done() for task in tasks)


async def test_until_a_replica_has_its_turn_it_says_that_the_new_version_is_not_there_yet(
    versions: VersionFolder,
):
    engine = Engine(versions)
    with pytest.raises(HTTPException, match="version 2 is not on this replica yet") as refusal:
        await engine.ask(2)
    assert refusal.value.status_code == 503, "which clients wait out"
    assert await engine.ask(None) == await engine.ask(0) == 0
    assert await engine.weights.load(2) is None
    assert await engine.ask(2) == await engine.ask(0) == 2
    assert engine.loaded == [2]


async def test_a_replica_that_came_up_during_a_roll_takes_what_is_then_in_use(versions: VersionFolder):
    engine = Engine(versions)
    await engine.weights.catch_up()
    with pytest.raises(HTTPException):
        await engine.ask(2)
    versions.use_version(2, "checkpoint")
    assert await engine.ask(2) == 2
    assert engine.loaded == [2]


async def test_many_requests_at_once_have_it_loaded_once(versions: VersionFolder):
    engine = Engine(versions)
    engine.may.clear()
    versions.use_version(2, "checkpoint")
    asked = [asyncio.create_task(engine.ask(2)) for _ in range(8)]
    assert await waiting(*asked)
    engine.may.set()
    assert await asyncio.gather(*asked) == [2] * 8
    assert engine.loaded == [2]


async def test_a_request_that_comes_while_it_is_loaded_has_it_loaded_no_second_time(versions: VersionFolder):
    engine = Engine(versions)
    engine.may.clear()
    rolled = asyncio.create_task(engine.weights.load(2))
    await asyncio.sleep(0)
    versions.use_version(2, "checkpoint")
    asked = asyncio.create_task(engine.ask(2))
    assert await waiting(asked)
    engine.may.set()
    assert (await rolled, await asked) == (None, 2)
    assert engine.loaded == [2]


async def test_an_adapter_acts_by_its_own_name_and_what_nobody_has_is_the_engines_to_refuse(
    versions: VersionFolder, tmp_path: Path
):
    engine = Engine(versions)
    await engine.weights.load(2)
    versions.use_version(2, "checkpoint")
    write_adapter(tmp_path / "versions" / "v3")
    versions.use_version(3, "adapter")
    assert await engine.ask(3) == 3
    assert await engine.ask(9) == 9
    assert engine.loaded == [2]


async def test_an_adapter_that_has_gone_answers_the_requests_inside_and_no_others(versions: VersionFolder):
    engine = Engine(versions)
    for version in (3, 4, 5):
        write_adapter(versions.path / f"v{version}")
    async with engine.weights.acting(3) as acts:
        assert (acts, await engine.ask(4)) == (3, 4)
        assert engine.weights.retire(5) == [3]
        for asked in (3, 4):
            with pytest.raises(
                HTTPException, match=f"version {asked} has gone; the oldest .* is 5"
            ) as refusal:
                await engine.ask(asked)
            assert refusal.value.status_code == 410
    assert engine.weights.retire(5) == []
    assert await engine.ask(5) == 5
    assert await engine.ask(0) == 0


async def test_a_replica_that_comes_up_later_knows_which_adapters_have_gone(tmp_path: Path):
    versions = VersionFolder(tmp_path / "versions", kept=1)
    for version in (3, 4):
        write_adapter(versions.path / f"v{version}")
    versions.use_version(4, "adapter")
    engine = Engine(versions)
    await engine.weights.catch_up()
    with pytest.raises(HTTPException, match="version 3 has gone"):
        await engine.ask(3)
    assert await engine.ask(4) == 4


async def test_weights_that_do_not_load_leave_those_before(versions: VersionFolder):
    engine = Engine(versions, 2)
    assert await engine.weights.load(2) == "ValueError: no room"
    assert (engine.loaded, await engine.ask(0)) == ([2, 0], 0)


async def test_a_replica_that_has_lost_its_weights_says_so(versions: VersionFolder):
    engine = Engine(versions, 0, 2)
    with pytest.raises(ValueError, match="no room"):
        await engine.weights.load(2)
    assert engine.weights.spoilt
    with pytest.raises(RuntimeError, match="lost its weights"):
        await engine.ask(0)
