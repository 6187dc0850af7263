"""What the bodies of one session's requests may take of the worker's memory at a time."""

import asyncio
from typing import Any

import pytest

from tests.workers.gateway.test_dialects import in_time
from workers.gateway import bodies
from workers.gateway.bodies import BodyRoom
from workers.gateway.errors import GatewayError


def body_of(*parts: bytes) -> Any:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    return receive


async def never() -> Any:
    await asyncio.sleep(3600)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 10)
    monkeypatch.setattr(bodies, "_ALL_BODIES", 20)


def test_bodies_wait_until_there_is_room_and_give_it_back() -> None:
    async def play() -> None:
        room = BodyRoom()
        first = await room.read(
            body_of(b"12345", b"6789"), {}
        )  # in chunks: it counts as 10 until it is there
        assert first == b"123456789"
        second = await room.read(body_of(b"1234567890"), {"content-length": "10"})
        third = asyncio.create_task(room.read(body_of(b"12"), {"content-length": "2"}))
        fourth = asyncio.create_task(room.read(body_of(b"1"), {"content-length": "1"}))
        await asyncio.sleep(0.01)
        assert not third.done() and not fourth.done()  # there is room for the fourth, which came later
        third.cancel()
        assert await fourth == b"1"
        room.give(len(first) + len(second) + 1)
        assert await asyncio.gather(*(room.read(body_of(b"x"), {}) for _ in range(10))) == [b"x"] * 10

    in_time(play)


def test_a_body_that_is_refused_or_broken_off_gives_back_its_room() -> None:
    async def play() -> None:
        room = BodyRoom()
        for _ in range(5):
            with pytest.raises(GatewayError, match="larger than"):
                await room.read(body_of(b"123456", b"123456"), {})
            with pytest.raises(GatewayError, match="larger than"):
                await room.read(never, {"content-length": "11"})
            waiting = asyncio.create_task(room.read(never, {}))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert await room.read(body_of(b"1"), {"content-length": "1"}) == b"1"

    in_time(play)
