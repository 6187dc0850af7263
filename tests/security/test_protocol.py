"""The pipe: a session that writes to everything it holds, to be taken for the tool host or for another."""

import asyncio
import json
import re
import struct
from typing import Any

import pytest

from tests.helpers.cells import Cell
from tests.helpers.sandboxes import said
from workers.errors import RequestRefused, SessionLost, ToolsetError

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

FAKES: dict[str, list[Any]] = {
    "no JSON": ["{"],
    "no object": [[1, 2]],
    "of another request": [{"id": 999_999, "ok": True, "result": {}}],
    "the first frame of all": [{"id": 0, "ok": True, "result": {"protocol": 1}}],
    "nested 100,000 deep": ["[" * 100_000],
    "a number without end": ['{"id": ' + "9" * 10_000 + ', "ok": true}'],
}
GARBAGE = {
    "no text": b"\xff" * 64,
    "an empty frame": b"\0\0\0\2{}",
    "a frame of 4 GiB": b"\xff\xff\xff\xff",
    "a reply to the neighbour": struct.pack(">I", 46) + b'{"id":1,"ok":true,"result":{"content":"mine"}}',
    "a frame of 48 MiB": b"\3\0\0\0\0\0\0\4evil" * 8,
}


async def lost(cell: Cell, tool: str, match: str, timeout: float | None = None, **arguments: Any) -> None:
    """The attempt costs its session, while the neighbour waits for an answer of its own, and gets it."""
    attacker = await cell.session()
    waiting = asyncio.create_task(cell.neighbour.call("sleep", {"seconds": 0.1}))
    with pytest.raises(SessionLost, match=match):
        await attacker.call(tool, arguments, timeout)
    assert (await waiting).content == "slept"
    await cell.unharmed()
    await cell.pool.release(attacker)
    await cell.unharmed()


@pytest.mark.parametrize("frames", FAKES.values(), ids=FAKES)
async def test_fake_frame_costs_its_session(cell: Cell, frames: list[Any]) -> None:
    await lost(cell, "forge", "broke the protocol", frames=frames)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_bytes_on_every_descriptor_cost_their_session(cell: Cell, garbage: bytes) -> None:
    await lost(cell, "write_everywhere", "broke the protocol", hex_bytes=garbage.hex())


async def test_frame_that_never_ends_costs_its_session(cell: Cell) -> None:
    """Its answer is then taken for a part of it: the time limit settles that."""
    begun = struct.pack(">I", 16 << 20).hex()
    await lost(cell, "write_everywhere", "within its time limit", timeout=0.5, hex_bytes=begun)


@pytest.mark.parametrize(
    ("tool", "arguments", "cause"),
    [
        ("hang_up", {}, "its process ended by itself"),
        ("exit", {"status": 3}, r"exit 3\)"),
        ("segfault", {}, r"exit -11\)"),
    ],
    ids=["closes its descriptors", "exits", "crashes"],
)
async def test_session_that_leaves_costs_itself(
    cell: Cell, tool: str, arguments: dict[str, Any], cause: str
) -> None:
    await lost(cell, tool, cause, **arguments)


async def test_session_holds_nothing_but_its_own_channel(cell: Cell) -> None:
    attacker = await cell.session()
    found = json.loads(await said(attacker, "descriptors"))
    assert {name for name, link in found.items() if link == "/dev/null"} == {"0", "1", "2"}
    sockets = [link for link in found.values() if link.startswith("socket:")]
    assert len(sockets) == 1
    assert not any(link.startswith("pipe:") for link in found.values())
    await cell.pool.release(attacker)


async def test_state_nested_deep_is_refused_or_costs_its_session(cell: Cell) -> None:
    attacker = await cell.session()
    await said(attacker, "nested", depth=5000)
    with pytest.raises((SessionLost, ToolsetError)) as refused:
        await attacker.state()
    assert re.search("Recursion|recursion|deep", str(refused.value))
    await cell.pool.release(attacker)
    await cell.unharmed()


async def test_arguments_nested_deep_are_not_even_sent(cell: Cell) -> None:
    attacker = await cell.session()
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(RequestRefused, match="nested"):
        await attacker.call("echo", {"deep": deep})
    await said(attacker, "echo")
    await cell.pool.release(attacker)
