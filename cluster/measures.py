"""The observers of a run: they measure for the display, `metrics.jsonl`, Prometheus, spans and trackers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.observe.meter import Meter
from cluster.observe.metrics import Exporter
from cluster.observe.observers import Observers
from cluster.observe.policy_watch import PolicyWatch
from cluster.observe.progress import Progress
from cluster.parts import RunComponents


class RunObservers:
    """The observers of a run: they count its episodes and watch its policy.

    Args:
        components: The running components of the run.
        folder: The folder of the run.
        run_id: The id of the run.
        progress: The live display.
        planned: How many episodes are still to be played.
        between: What the policy waits for when all of them have been.
    """

    def __init__(
        self,
        components: RunComponents,
        folder: Path,
        run_id: str,
        progress: Progress,
        planned: int,
        between: str = "tail",
    ) -> None:
        watch = PolicyWatch(components.policy.metrics, planned, components.pool.apply_metrics, between)
        pool = components.pool
        self._watch = watch
        trackers = components.trackers
        tell = None if trackers is None else trackers.send
        self._meter = Meter(folder, Exporter(run_id), lambda: pool.state, planned, lambda: watch.use, tell)
        progress.policy, progress.pool = lambda: watch.use, lambda: pool.state
        self.episode_observers = Observers(
            *([trackers] if trackers else []),
            progress,
            self._meter,
            watch,
            *([components.spans] if components.spans else []),
        )
        """All observers of episodes as one: it is told what becomes of each episode."""

    def expect(self, episodes: int) -> None:
        """Says that this many more episodes are to be played."""
        self._watch.expect(episodes)
        self._meter.expect(episodes)

    @asynccontextmanager
    async def observing(self, every: float) -> AsyncGenerator[None]:
        """Watches the policy once a second, and writes a metrics line every `every` seconds, until left."""
        async with self._meter.writing(every), self._watch.watching():
            yield
