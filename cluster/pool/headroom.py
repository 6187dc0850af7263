"""How many episodes may run at once, by the length of the queue at the model server."""

import math
from collections import deque

from cluster.policy.vllm.engine_metrics import EngineMetrics

_QUEUE_WINDOW = 5
"""Looks in a row, a second apart, that a queue must last to count; or be empty, to count as gone."""
_SPARE_SHARE = 0.1
"""A queue of this share of the batch is wanted: it bridges the time from one's end to another's request."""
_GROWTH_STEP = 0.25
"""Share by which the limit is raised at a time."""


class Headroom:
    """A limit on episodes in flight: lowered by the part of a queue that lasts, raised when none is left.

    A request that waits for a place in vLLM's batch is served no sooner for another one behind it. So where
    there was a longer queue than is wanted at each of the last looks, the limit is what is in flight less the
    part of the queue that was always there: the batch stays full. Where there was none at all, it is raised
    by a quarter, until it limits nothing. Running episodes are never cancelled for it.

    Args:
        floor: The limit never goes below this many episodes.
        ceiling: Episodes that all workers together have room for.
        replicas: Up to how many replicas the deployment may still grow by itself; till then nothing is
            limited, for the queue is what it grows by.
    """

    def __init__(self, floor: int, ceiling: int, replicas: int = 1) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._replicas = replicas
        self._waiting: deque[int] = deque(maxlen=_QUEUE_WINDOW)
        self.limit: int | None = None
        """Most episodes that may run at once now. None: any number."""

    def update_limit(self, metrics: EngineMetrics, in_flight: int) -> None:
        """Adapts the limit to the metrics of the deployment. To be called once a second.

        Args:
            metrics: The metrics of the deployment.
            in_flight: How many episodes are in flight now.
        """
        self._waiting.append(metrics.waiting)
        if len(self._waiting) < _QUEUE_WINDOW:
            return
        surplus = min(self._waiting) - math.ceil(_SPARE_SHARE * metrics.running)
        if surplus > 0 and metrics.replicas >= self._replicas:
            if self.limit is None or in_flight <= self.limit:  # else the last step has yet to take effect
                self._set_limit(in_flight - surplus)
        elif self.limit is not None and max(self._waiting) == 0:
            self._set_limit(self.limit + math.ceil(_GROWTH_STEP * self.limit))

    def _set_limit(self, limit: int) -> None:
        limit = max(self._floor, limit)
        self.limit = limit if limit < self._ceiling else None
        self._waiting.clear()
