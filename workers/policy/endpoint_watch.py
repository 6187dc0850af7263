"""What a worker learns of an endpoint: how many requests it takes, and what is odd about it."""

import logging

from workers.policy.request_pace import RequestPace
from workers.records import RequestUse
from workers.settings import PolicyEndpoint

_log = logging.getLogger(__name__)


class EndpointWatch:
    """One worker's notes on an endpoint.

    Args:
        endpoint: The endpoint.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self.pace = RequestPace() if endpoint.paced else None
        """When requests are sent. None: at once."""
        self._where = f"the policy at {endpoint.base_url}"
        self._kinds: set[str] = set()
        self._untold: list[str] = []
        self._told_refused = 0

    def notice(self, what: str) -> None:
        """Says once what is odd."""
        kind = "".join(letter for letter in what if not letter.isdigit())
        if kind not in self._kinds:
            self._kinds.add(kind)
            _log.warning("%s: %s", self._where, what)
            self._untold.append(f"{self._where}: {what}")

    def use(self, worker_id: str) -> RequestUse | None:
        """How requests fare, with what was not told before; None if there is nothing to tell."""
        notices, self._untold = self._untold, []
        if self.pace is None:
            return RequestUse(worker_id=worker_id, notices=notices) if notices else None
        refused, self._told_refused = self.pace.refused - self._told_refused, self.pace.refused
        return RequestUse(
            worker_id=worker_id,
            at_once=self.pace.most,
            rate=self.pace.rate if self.pace.refused else None,
            refused=refused,
            notices=notices,
        )
