"""What is measured while episodes are played: for the display, `metrics.jsonl`, Prometheus and spans."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.observe.meter import Meter
from cluster.observe.metrics import Exporter
from cluster.observe.observers import Observers
from cluster.observe.policy_watch import PolicyWatch
from cluster.observe.progress import Progress
from cluster.parts import Parts


class Measures:
    """The observers of a run, of which some look at the policy, too.

    Args:
        parts: The run's.
        folder: The run's.
        run_id: The run.
        progress: The display.
        planned: Episodes to see through.
        between: What the policy waits for when all of them have been.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        run_id: str,
        progress: Progress,
        planned: int,
        between: str = "tail",
    ) -> None:
        watch = PolicyWatch(parts.policy.metrics, planned, parts.pool.heed, between)
        pool = parts.pool
        self._watch = watch
        self._meter = Meter(folder, Exporter(run_id), lambda: pool.state, planned, lambda: watch.use)
        progress.policy, progress.pool = lambda: watch.use, lambda: pool.state
        self.observers = Observers(progress, self._meter, watch, *([parts.spans] if parts.spans else []))
        """Who is told what becomes of the episodes."""

    def expect(self, episodes: int) -> None:
        """So many episodes more are to be seen through."""
        self._watch.expect(episodes)
        self._meter.expect(episodes)

    @asynccontextmanager
    async def taken(self, every: float) -> AsyncGenerator[None]:
        """Looks once a second, and writes a line every so many seconds, until left."""
        async with self._meter.writing(every), self._watch.watching():
            yield
