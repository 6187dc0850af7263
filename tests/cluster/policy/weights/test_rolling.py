"""Replicas take new weights one after the other, all of them or none."""

from collections.abc import Awaitable, Callable

import pytest

from cluster.policy.weights.rolling import roll_out


class Replicas:
    """Three replicas at version 1, and what is asked of them."""

    def __init__(self, refuse: Callable[[str, int], str | None] = lambda *_: None) -> None:
        self.has = {"a": 1, "b": 1, "c": 1}
        self.asked: list[tuple[str, int]] = []
        self._refuse = refuse

    async def load(self, replica: str, version: int) -> str | None:
        self.asked.append((replica, version))
        reason = self._refuse(replica, version)
        if reason is None:
            self.has[replica] = version
        return reason

    def roll(self) -> Awaitable[str | None]:
        return roll_out(list(self.has.items()), self.load, 2)


async def test_one_after_the_other():
    replicas = Replicas()
    assert await replicas.roll() is None
    assert replicas.asked == [("a", 2), ("b", 2), ("c", 2)]


async def test_where_one_refuses_those_before_go_back():
    replicas = Replicas(lambda replica, _: "no room" if replica == "c" else None)
    assert await replicas.roll() == "no room"
    assert replicas.has == {"a": 1, "b": 1, "c": 1}


async def test_where_one_is_lost_those_before_go_back():
    def die(replica: str, version: int) -> None:
        if (replica, version) == ("b", 2):
            raise ConnectionError("gone")

    replicas = Replicas(die)
    with pytest.raises(ConnectionError):
        await replicas.roll()
    assert replicas.has == {"a": 1, "b": 1, "c": 1}
