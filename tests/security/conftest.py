from collections.abc import AsyncIterator

import docker
import pytest
import pytest_asyncio

from tests.helpers.cells import LEVELS, Cell, Level, cell_of
from tests.helpers.engine_fixtures import dummy_image, engine
from workers.sandbox.base import Session

__all__ = ["attacker", "cell", "dummy_image", "engine"]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LEVELS, ids=str)
async def cell(
    request: pytest.FixtureRequest, dummy_image: str, engine: docker.DockerClient
) -> AsyncIterator[Cell]:
    """Sandboxes of one level, for all tests of a module."""
    level: Level = request.param
    async with cell_of(level, dummy_image, engine) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacker(cell: Cell) -> Session:
    """A session for attempts that do not cost it its life."""
    return await cell.session()
