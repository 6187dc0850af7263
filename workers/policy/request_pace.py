"""How many requests a client sends, so that a server that others use, too, refuses few of them."""

import asyncio
import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable

_FIRST_RATE, _DOUBLES_IN = 4.0, 1.5
"""Requests a second at first, and the seconds in which that doubles until the first refusal."""
_FIRST_CUT, _CUT = 0.7, 0.8
"""Shares of the rate that are taken for the server's, at least, at the first refusal and at later ones."""
_KNOWN_SECONDS, _KNOWN_REQUESTS = 2.0, 5
"""Between two refusals that are so far apart, the rate at which requests were taken is the server's."""
_RATE_MARGIN = 0.1
"""Share of the server's rate by which it is stayed below after a refusal."""
_RETURN_REQUESTS, _RETURN_SECONDS = 30.0, 25.0
"""Requests after which that rate is reached again, or seconds, where they are over first."""
_SPARE_REQUESTS = 1.5
"""Requests at once that there is room for, beside what the rate needs on average: answers take their time."""
_UNLIMITED_RATE = 1e4
"""Requests a second from which on there is no limit."""
_MIN_RATE = 0.01
_LOOK_EVERY = 0.5
"""Seconds after which the limits, which grow, are looked at again."""
_PAUSES = (0.0, 0.5, 15.0)
"""Seconds that nothing is sent after a refusal where the server names none: where it took requests just
before, where it did not, and at most; each in a row is twice as long as the one before."""


class RequestPace:
    """Lets requests through: at no higher rate, and no more at once, than the server takes.

    Both limits are learned. There is none at first; requests are started at a rate that doubles every second,
    until one is refused. From then on, the rate is a little below that at which requests were taken between
    the last two refusals, and the number at once is that which was in flight without being refused. Both grow
    for as long as nothing is refused: slowly at first, then faster. Refusals of requests that were sent
    before the limits were last cut are of the same round, and cut nothing.

    Requests are let through in the order in which they first came; one that was refused is before them again.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._tickets = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent: dict[int, float] = {}
        self._began: float | None = None
        self._grown_from: float | None = None
        self._rate: float | None = None
        self._most: float | None = None
        self._next = self._closed_until = self._round_at = self._counted_from = -math.inf
        self._taken = self._sent_since = 0
        self._rounds_without_answer = 0
        self._seconds: deque[float] = deque(maxlen=32)
        self.refused = 0
        """Requests that were refused so far."""

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return len(self._sent)

    @property
    def rate(self) -> float | None:
        """Requests that may be started in a second now. None: any number."""
        if self._rate is None:
            now = self._clock()
            rate = _FIRST_RATE * 2.0 ** min((now - (self._began or now)) / _DOUBLES_IN, 64.0)
        else:
            rate = self._rate * self._growth_factor()
        return None if rate > _UNLIMITED_RATE else rate

    @property
    def most(self) -> int | None:
        """Requests that may be in flight now. None: any number."""
        if self._most is None:
            return None
        most = self._most * self._growth_factor() / (1.0 - _RATE_MARGIN)
        return None if most > _UNLIMITED_RATE else max(1, int(most + 1e-9))

    def take_ticket(self) -> int:
        """A request's place in the order of requests."""
        self._tickets += 1
        return self._tickets

    async def admit(self, ticket: int) -> None:
        """Returns when this request may be sent; one of `answer`, `refuse` and `drop` must follow."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ticket, turn))
        self._admit_waiting()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.drop(ticket)
            raise

    def answer(self, ticket: int) -> None:
        """The request was answered, whatever with."""
        sent = self._sent.pop(ticket, None)
        if sent is not None:
            self._seconds.append(self._clock() - sent)
        self._rounds_without_answer = 0
        self._admit_waiting()

    def drop(self, ticket: int) -> None:
        """The request came to no answer, and says nothing of the server."""
        self._sent.pop(ticket, None)
        self._admit_waiting()

    def refuse(self, ticket: int, wait: float | None) -> None:
        """The server took the request for one too many.

        Args:
            ticket: The request.
            wait: Seconds after which the server wants to be asked again, where it says so.
        """
        now = self._clock()
        sent = self._sent.pop(ticket, now)
        self.refused += 1
        if sent >= self._counted_from:
            self._taken -= 1
        pause = 0.0
        if sent >= self._round_at:
            self._round_at = now
            pause = self._next_pause()
            self._reduce_limits(now)
        elif self._most is not None:
            self._most = max(1.0, min(self._most, float(len(self._sent))))
        if wait is not None:
            pause = wait * random.uniform(1.0, 1.05)  # so that workers do not come back all at once
        self._closed_until = max(self._closed_until, now + pause)
        self._admit_waiting()

    def _reduce_limits(self, now: float) -> None:
        rate = self.rate
        grown = self._grown_from
        self._grown_from = now
        if self._taken <= 0:
            # Nothing was taken since the round before: that the server is closed says nothing of its limits.
            self._rate = rate if self._rate is None else self._rate
            self._most = self._most or float(max(1, len(self._sent)))
            return
        seconds = max(now - self._counted_from, 1e-3)
        taken = self._taken / seconds
        if rate is None or grown is None:
            rate = taken if rate is None else min(taken, _FIRST_CUT * rate)
        elif seconds < _KNOWN_SECONDS or self._taken < _KNOWN_REQUESTS:
            rate = _CUT * rate
        else:
            rate = min(rate, max(taken, _CUT * rate))
        self._rate = max(rate, _MIN_RATE)
        self._counted_from, self._taken, self._sent_since = now, 0, 0
        needed = self._rate * sum(self._seconds) / len(self._seconds) if self._seconds else 0.0
        self._most = float(max(1, len(self._sent), math.ceil(_SPARE_REQUESTS * needed)))

    def _next_pause(self) -> float:
        first, again, longest = _PAUSES
        rounds = self._rounds_without_answer
        self._rounds_without_answer += 1
        return first if rounds == 0 else min(longest, again * 2.0 ** (rounds - 1))

    def _growth_factor(self) -> float:
        if self._grown_from is None:
            return 1.0
        seconds = (self._clock() - self._grown_from) / _RETURN_SECONDS
        way = min(max(seconds, self._sent_since / _RETURN_REQUESTS), 1e3)
        return 1.0 + _RATE_MARGIN * (way - 1.0) ** 3

    def _admit_waiting(self) -> None:
        """Sends what may be sent now, and sees to it that the rest is looked at again when it may be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            if self._waiting[0][1].done():
                heapq.heappop(self._waiting)
                continue
            most, rate, now = self.most, self.rate, self._clock()
            if most is not None and len(self._sent) >= most:
                return
            opens = max(self._closed_until, self._next if rate is not None else -math.inf)
            if opens > now:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(min(opens - now, _LOOK_EVERY), self._admit_waiting)
                return
            ticket, turn = heapq.heappop(self._waiting)
            self._admit_request(ticket, now)
            if rate is not None:
                # A loop that is late by one turn makes up for it, so that the rate is kept on average.
                self._next = max(self._next, now - 1 / rate) + 1 / rate
            turn.set_result(None)

    def _admit_request(self, ticket: int, now: float) -> None:
        if self._began is None:
            self._began = self._counted_from = now
        self._sent[ticket] = now
        self._taken += 1
        self._sent_since += 1
