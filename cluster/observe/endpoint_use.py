"""How the requests to an endpoint fare: what its workers, each adapting by itself, come to together."""

import time

from workers.records import Record, RequestUse

_FORGET_AFTER = 120.0
"""Seconds after which a worker that is not heard of counts no more."""


class EndpointUse(Record):
    """What all workers together send to an endpoint."""

    at_once: int | None = None
    """Requests that they would have in flight now. Null: any number."""
    rate: float | None = None
    """Requests that they would start in a second now. Null: any number, as long as none is refused."""
    refused: int = 0
    """Requests that were refused as too many so far, and sent again."""


class EndpointTally:
    """Adds up what workers tell of their requests, with their results."""

    def __init__(self) -> None:
        self._workers: dict[str, tuple[float, RequestUse]] = {}
        self._refused = 0
        self.notices: list[str] = []
        """What is odd about the endpoint; each once."""

    def add(self, use: RequestUse | None) -> list[str]:
        """Takes in what a worker tells.

        Returns:
            What is new to be said of the endpoint.
        """
        if use is None:
            return []
        self._workers[use.worker_id] = time.monotonic(), use
        self._refused += use.refused
        new = [
            notice for notice in use.notices if _notice_kind(notice) not in map(_notice_kind, self.notices)
        ]
        self.notices += new
        return new

    @property
    def use(self) -> EndpointUse | None:
        """Returns the use by all workers together; None where nothing adapts."""
        now = time.monotonic()
        heard = [use for at, use in self._workers.values() if now - at < _FORGET_AFTER]
        if not heard:
            return None
        most = [use.at_once for use in heard if use.at_once is not None]
        rates = [use.rate for use in heard if use.rate is not None]
        return EndpointUse(
            at_once=sum(most) if len(most) == len(heard) else None,
            rate=round(sum(rates), 2) if len(rates) == len(heard) else None,
            refused=self._refused,
        )


def _notice_kind(notice: str) -> str:
    return "".join(letter for letter in notice if not letter.isdigit())
