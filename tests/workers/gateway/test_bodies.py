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


def slow_after(part: bytes) -> Any:
    parts = [part]

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(), "more_body": True} if parts else await never()

    return receive


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 10)
    monkeypatch.setattr(bodies, "_ALL_BODIES", 20)


def test_what_is_not_answered_yet_leaves_room_for_so_much_more() -> None:
    async def play() -> None:
        room = BodyRoom()
        assert await room.read(body_of(b"12345", b"67890"), {}) == b"1234567890"
        assert await room.read(body_of(b"123456"), {"content-length": "6"}) == b"123456"
        with pytest.raises(GatewayError, match="send this one again later") as refused:
            await room.read(body_of(b"123", b"45"), {})
        assert refused.value.status == 503
        assert await room.read(body_of(b"1234"), {}) == b"1234"
        room.give(20)
        assert await room.read(body_of(b"123", b"45"), {}) == b"12345"

    in_time(play)


def test_a_body_that_is_refused_or_broken_off_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.01)

    async def play() -> None:
        room = BodyRoom()
        for _ in range(5):
            with pytest.raises(GatewayError, match="larger than"):
                await room.read(body_of(b"123456", b"123456"), {})
            with pytest.raises(GatewayError, match="larger than"):
                await room.read(never, {"content-length": "11"})
            with pytest.raises(GatewayError, match="to come"):
                await room.read(slow_after(b"123456"), {})
        assert await room.read(body_of(b"1234567890"), {}) == b"1234567890"
        assert await room.read(body_of(b"1234567890"), {}) == b"1234567890"

    in_time(play)
