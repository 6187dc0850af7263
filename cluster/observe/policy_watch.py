"""How busy the policy's deployment is kept during a run, and what it waits for when it could take more."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from cluster.errors import PolicyUnavailable
from cluster.observe.engine_counts import EngineCounts
from cluster.observe.policy_use import PolicyUse
from cluster.policy.vllm.engine_metrics import EngineMetrics
from workers.cancellation import cancel_and_wait
from workers.records import EpisodeResult, EpisodeSpec

_log = logging.getLogger(__name__)
_INTERVAL = 1.0
"""Seconds between two looks; one is a request of some milliseconds to each replica."""
_STAGES = {"sandbox": ("queue", "setup"), "tools": ("tools",), "scoring": ("scoring",)}
"""What an episode that the policy does not work on may be in, and the timings that tell of it."""


class PolicyWatch:
    """Looks at a deployment once a second, and notes what is in flight meanwhile.

    Args:
        metrics: Asks the deployment; None where it cannot tell.
        planned: Episodes to see through.
        heed: Is told, too, while there are episodes left.
        between: What the policy waits for when all of them have been.
    """

    def __init__(
        self,
        metrics: Callable[[], EngineMetrics | None],
        planned: int,
        heed: Callable[[EngineMetrics], Awaitable[None]] | None = None,
        between: str = "tail",
    ) -> None:
        self._metrics = metrics
        self._heed = heed
        self._between = between
        self._left = planned
        self._in_flight = 0
        self._ended = 0
        self._stages: dict[str, float] = {}
        self._counts = EngineCounts()
        self._last: float | None = None
        self.use: PolicyUse | None = None
        """None before the first look, and where the policy cannot tell."""

    def expect(self, episodes: int) -> None:
        """Says that this many more episodes are to be played."""
        self._left += episodes

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """These episodes went to a worker."""
        self._in_flight += len(specs)

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """These episodes came back."""
        self._in_flight -= len(specs)

    def retried(self, episodes: int) -> None:
        """So many episodes get another attempt; they are in flight again at once."""

    def cancelled(self, episodes: int) -> None:
        """So many episodes are no longer wanted."""
        self._left -= episodes

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """An episode is on record."""
        self._ended += 1
        self._left -= 1
        timings = result.timings
        for cause, stages in _STAGES.items():
            self._add_seconds(cause, sum(getattr(timings, stage) for stage in stages))
        known = sum(getattr(timings, s) for s in ("queue", "setup", "policy", "tools", "scoring"))
        self._add_seconds("ingest", max(0.0, timings.total - known))

    def _add_seconds(self, cause: str, seconds: float) -> None:
        self._stages[cause] = self._stages.get(cause, 0.0) + seconds

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Looks when entered, once a second, and when left."""
        if not await self._request_metrics():
            yield
            return
        task = asyncio.create_task(self._watch_repeatedly(), name="policy watch")
        try:
            yield
        finally:
            await cancel_and_wait([task])
            await self._request_metrics()

    async def _watch_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            await self._request_metrics()

    async def _request_metrics(self) -> bool:
        """Requests the metrics and adds them; returns False if this kind of policy has none."""
        try:
            metrics = await asyncio.to_thread(self._metrics)
        except PolicyUnavailable as error:
            _log.debug("no look at the policy: %s", error)
            return True
        if metrics is not None:
            self.add_metrics(time.monotonic(), metrics)
            if self._heed is not None and self._left:  # of an idle policy there is nothing to learn
                await self._heed(metrics)
        return metrics is not None

    def add_metrics(self, now: float, metrics: EngineMetrics) -> None:
        """Adds what the deployment says at a time."""
        grown = self._counts.add(metrics)
        use = self.use or PolicyUse()
        seconds = 0.0 if self._last is None else now - self._last
        waited = dict(use.waited_for)
        for cause, part in self._split_waiting_time(metrics, seconds).items():
            waited[cause] = waited.get(cause, 0.0) + part
        counts: dict[str, Any] = self._counts.totals
        self.use = PolicyUse(
            running=metrics.running,
            waiting=metrics.waiting,
            max_requests=metrics.max_requests,
            kv_cache_usage=metrics.kv_cache_usage,
            tokens_per_second=grown["generated_tokens"] / seconds if seconds else 0.0,
            seconds=use.seconds + seconds,
            busy_seconds=use.busy_seconds + (0.0 if self._count_missing_requests(metrics) else seconds),
            waited_for=waited,
            **counts,
        )
        self._last = now

    def _count_missing_requests(self, metrics: EngineMetrics) -> int:
        return max(0, metrics.max_requests - metrics.running - metrics.waiting)

    def _split_waiting_time(self, metrics: EngineMetrics, seconds: float) -> dict[str, float]:
        """Splits a time by what the missing requests would have had to come from."""
        missing = self._count_missing_requests(metrics)
        if not missing or not seconds:
            return {}
        if not self._left and not self._in_flight:
            return {self._between: seconds}
        elsewhere = min(missing, max(0, self._in_flight - metrics.running - metrics.waiting))
        if not self._ended:
            return {"ramp_up": seconds}
        absent = "tail" if self._left <= self._in_flight else "places"
        spent = sum(self._stages.values())
        shares = {cause: own / spent for cause, own in self._stages.items()} if spent else {"ingest": 1.0}
        parts = {cause: seconds * elsewhere / missing * share for cause, share in shares.items()}
        return parts | {absent: seconds * (missing - elsewhere) / missing}
