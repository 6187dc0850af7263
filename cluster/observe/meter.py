"""What a run measures of itself while it lasts: `metrics.jsonl`, and the same for Prometheus."""

import asyncio
import logging
import resource
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from cluster.observe.endpoint_use import EndpointTally, EndpointUse
from cluster.observe.metrics import STAGES, Exporter
from cluster.observe.policy_use import PolicyUse
from cluster.observe.tally import Mean
from cluster.pool.worker_pool import PoolState
from workers.cancellation import cancel_and_wait
from workers.records import EpisodeResult, EpisodeSpec, Record

_log = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"


class StageSeconds(Record):
    """Seconds that an episode spent in a stage, over the episodes that finished since the line before."""

    mean: float
    """Mean."""
    p50: float
    """Median."""
    p95: float
    """95th percentile."""


class MetricsLine(Record):
    """One line of `metrics.jsonl`. Counts begin when this process took the run up."""

    time: float
    """Seconds since the epoch."""
    elapsed: float
    """Seconds since this process took the run up."""
    process: str | None = None
    """Id of the process that wrote the line; a resumed run has several. Null in old runs."""
    planned: int
    """Episodes that this process has to play."""
    finished: int
    """Episodes that finished."""
    failed: dict[str, int] = Field(default_factory=dict[str, int])
    """Episodes that failed, by the stage in which they failed."""
    cancelled: int
    """Episodes that were cancelled because their group had enough (`keep`)."""
    retries: int
    """Second and later attempts at episodes."""
    in_flight: int
    """Episodes that workers are playing."""
    in_flight_limit: int | None = None
    """Most episodes that may run at once now (`workers.headroom`). Null: any number."""
    queued: int
    """Episodes that no worker has got yet."""
    workers_up: int
    """Workers that are ready to play."""
    workers_starting: int
    """Workers whose sandbox is starting."""
    workers_pending: int
    """Workers that are loading, or waiting for a node."""
    workers_lost: int
    """Workers that died."""
    nodes: int
    """Nodes that the workers are on."""
    episodes_per_second: float
    """Episodes that ended per second, since the line before."""
    tokens_per_second: float
    """Tokens sampled per second in episodes that ended, since the line before."""
    policy_requests: int
    """Requests that the policy answered with an action."""
    prompt_tokens: int
    """Prompt tokens."""
    completion_tokens: int
    """Sampled tokens."""
    sandbox_creations: int
    """Sandboxes that workers started."""
    reward: float | None
    """Mean reward of the episodes finished so far."""
    stage_seconds: dict[str, StageSeconds] = Field(default_factory=dict[str, StageSeconds])
    """By stage; empty if no episode finished since the line before."""
    policy: PolicyUse | None = None
    """How busy the deployment is. Null if it does not report this."""
    endpoint: EndpointUse | None = None
    """How many requests are sent to a `policy.kind: endpoint`. Null for other policies, and before any
    result."""
    driver_memory_mb: float
    """Most memory that the driver has used so far, in MiB."""


class Meter:
    """Counts what happens, writes a line every so many seconds, and hands the same to Ray.

    Args:
        folder: The run's.
        exporter: For Prometheus. None: nothing is exported.
        pool: Says how the pool is doing.
        planned: Episodes to see through.
        policy: Says how busy the policy is.
        tell: Is told each line that is written.
    """

    def __init__(
        self,
        folder: Path,
        exporter: Exporter | None,
        pool: Callable[[], PoolState],
        planned: int,
        policy: Callable[[], PolicyUse | None] = lambda: None,
        tell: Callable[[MetricsLine], None] | None = None,
    ) -> None:
        self._tell = tell
        self._policy = policy
        self._path = folder / METRICS_FILE
        self._process = uuid.uuid4().hex[:12]
        self._ends_whole = not self._path.exists()
        self._exporter = exporter
        self._pool = pool
        self._planned = planned
        self._began = self._last = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._reward = Mean()
        self._endpoint = EndpointTally()
        self._in_flight = 0
        self._before: Counter[str] = Counter()
        self._lost = 0
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def expect(self, episodes: int) -> None:
        """Says that this many more episodes are to be played."""
        self._planned += episodes

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """These episodes went to a worker."""
        self._in_flight += len(specs)

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """These episodes came back, for good or for another attempt."""
        self._in_flight -= len(specs)

    def retried(self, episodes: int) -> None:
        """So many episodes get another attempt."""
        self._counts["retries"] += episodes
        self._export_growth("kumite_retries", episodes)

    def cancelled(self, episodes: int) -> None:
        """So many episodes are no longer wanted."""
        self._counts["cancelled"] += episodes
        self._export_growth("kumite_episodes", episodes, status="cancelled", stage="")

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """An episode is on record."""
        stage = result.error_stage or ""
        self._export_growth("kumite_episodes", 1, status=result.status, stage=stage)
        self._counts["ended"] += 1
        for notice in self._endpoint.add(result.requests):
            _log.warning("%s", notice)
        if result.status == "failed":
            self._failed[stage or "unknown"] += 1
        else:
            self._reward.add(result.reward)
            for name in STAGES:
                seconds: float = getattr(result.timings, name)
                self._seconds[name].append(seconds)
                if self._exporter is not None:
                    self._exporter.observe("kumite_stage_seconds", seconds, stage=name)
        for name, amount in (
            ("policy_requests", result.policy_requests),
            ("prompt_tokens", result.usage.prompt_tokens),
            ("completion_tokens", result.usage.completion_tokens),
            ("sandbox_creations", result.sandbox_creations),
        ):
            self._counts[name] += amount
            self._export_growth(f"kumite_{name}", amount)

    @asynccontextmanager
    async def writing(self, every: float) -> AsyncGenerator[None]:
        """Writes a line now, every so many seconds, and when left. A disk that takes none ends no run."""
        writer = asyncio.create_task(self._write_repeatedly(every), name="metrics")
        try:
            yield
        finally:
            try:
                await cancel_and_wait([writer])
            finally:
                self._write_line()

    async def _write_repeatedly(self, every: float) -> None:
        while True:
            self._write_line()
            await asyncio.sleep(every)

    def _write_line(self) -> None:
        line = self.line()
        if self._tell is not None:
            self._tell(line)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                # Whatever a killed process has left of a line ends here; readers pass empty ones over.
                file.write(f"{'' if self._ends_whole else chr(10)}{line.model_dump_json()}\n")
            self._ends_whole = True
        except OSError as error:
            self._ends_whole = False
            _log.warning("%s cannot be written: %s", self._path, error.strerror or error)

    def line(self) -> MetricsLine:
        """How things are now; what it says of rates and stages begins anew."""
        now, pool = time.monotonic(), self._pool()
        since, self._last = max(now - self._last, 1e-9), now
        new = self._counts - self._before
        self._before = Counter(self._counts)
        seconds, self._seconds = self._seconds, defaultdict(list)
        self._set_gauges(pool)
        failed = sum(self._failed.values())
        return MetricsLine(
            time=time.time(),
            elapsed=now - self._began,
            process=self._process,
            planned=self._planned,
            finished=self._counts["ended"] - failed,
            failed=dict(self._failed),
            in_flight=self._in_flight,
            in_flight_limit=pool.limit,
            queued=self._count_queued(),
            workers_up=pool.up,
            workers_starting=pool.starting,
            workers_pending=pool.pending,
            workers_lost=pool.lost,
            nodes=pool.nodes,
            episodes_per_second=new["ended"] / since,
            tokens_per_second=new["completion_tokens"] / since,
            reward=self._reward.value,
            stage_seconds={name: _sum_stage(values) for name, values in seconds.items()},
            policy=self._policy(),
            endpoint=self._endpoint.use,
            driver_memory_mb=_read_memory_mb(),
            **{
                name: self._counts[name]
                for name in (
                    *("cancelled", "retries", "policy_requests"),
                    *("prompt_tokens", "completion_tokens", "sandbox_creations"),
                )
            },
        )

    def _count_queued(self) -> int:
        return max(0, self._planned - self._counts["ended"] - self._counts["cancelled"] - self._in_flight)

    def _set_gauges(self, pool: PoolState) -> None:
        if self._exporter is None:
            return
        self._exporter.set("kumite_in_flight", self._in_flight)
        self._exporter.set("kumite_queued", self._count_queued())
        self._exporter.set("kumite_nodes", pool.nodes)
        for state, workers in (("up", pool.up), ("starting", pool.starting), ("pending", pool.pending)):
            self._exporter.set("kumite_workers", workers, state=state)
        if self._reward.value is not None:
            self._exporter.set("kumite_reward", self._reward.value)
        self._export_growth("kumite_workers_lost", pool.lost - self._lost)
        self._lost = pool.lost

    def _export_growth(self, name: str, amount: float, **labels: str) -> None:
        if self._exporter is not None:
            self._exporter.count(name, amount, **labels)


def _sum_stage(values: list[float]) -> StageSeconds:
    ordered = sorted(values)
    return StageSeconds(
        mean=sum(ordered) / len(ordered),
        p50=ordered[len(ordered) // 2],
        p95=ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
    )


def _read_memory_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
