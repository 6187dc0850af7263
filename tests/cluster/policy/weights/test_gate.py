"""Requests and a change of weights: never both at once."""

import asyncio

from cluster.policy.weights.gate import RequestLock


async def test_a_change_waits_for_requests_and_new_ones_wait_for_it():
    gate, seen, end = RequestLock(), list[str](), asyncio.Event()

    async def request(name: str, until: asyncio.Event | None = None) -> None:
        async with gate.request():
            seen.append(f"{name} begins")
            if until is not None:
                await until.wait()
            seen.append(f"{name} ends")

    async def change() -> None:
        async with gate.change():
            seen.append("change")

    first = asyncio.create_task(request("first", end))
    await asyncio.sleep(0)
    changing = asyncio.create_task(change())
    await asyncio.sleep(0)
    second = asyncio.create_task(request("second"))
    await asyncio.sleep(0.01)
    assert seen == ["first begins"]
    end.set()
    await asyncio.gather(first, changing, second)
    assert seen == ["first begins", "first ends", "change", "second begins", "second ends"]


async def test_a_request_that_is_cancelled_is_out():
    gate = RequestLock()

    async def request() -> None:
        async with gate.request():
            await asyncio.sleep(60)

    asked = asyncio.create_task(request())
    await asyncio.sleep(0)
    asked.cancel()
    async with asyncio.timeout(5), gate.change():
        pass
    async with asyncio.timeout(5), gate.request():
        pass
