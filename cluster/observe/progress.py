"""What a user sees while a run goes on: stages while it starts, then live figures; plain lines in a log."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cluster.observe.endpoint_use import EndpointTally
from cluster.observe.policy_use import PolicyUse
from cluster.observe.printing import escape_invisible
from cluster.observe.tally import LiveTally
from cluster.pool.worker_pool import PoolState
from workers.records import EpisodeResult, EpisodeSpec

_LINE_INTERVAL = 10.0
"""Seconds between two plain lines."""


class Progress:
    """Tells how a run is doing.

    Args:
        console: Where to. On a terminal the display is live, elsewhere it is lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = LiveTally()
        self._endpoint = EndpointTally()
        self._live: Live | None = None
        self._said = 0.0
        self.stages: dict[str, float] = {}
        self.policy: Callable[[], PolicyUse | None] = lambda: None
        """Says how busy the policy is, where that is known."""
        self.pool: Callable[[], PoolState | None] = lambda: None
        """Says how the workers are doing."""

    @property
    def in_flight(self) -> int:
        """How many episodes are in flight."""
        return len(self._tally.in_flight)

    def note(self, text: str) -> None:
        """Tells the user something once."""
        self._console.print(f"note: {text}", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, name: str) -> Generator["Stage"]:
        """A stage of starting up; says what it does while it lasts, and how long it took."""
        stage = Stage(name, self._console)
        with stage:
            yield stage
        self.stages[name] = stage.seconds

    @contextmanager
    def episodes(self, total: int) -> Generator[None]:
        """The stage in which episodes are played."""
        self._tally = LiveTally(total=total)
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        try:
            yield
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None
            else:
                self._console.print(self._progress_line(), highlight=False, soft_wrap=True, markup=False)
            self.stages["episodes"] = time.monotonic() - self._tally.began

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """These episodes went to a worker."""
        now = time.monotonic()
        self._tally.in_flight |= {spec.episode_id: (spec.task_id, now) for spec in specs}

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """These episodes came back, for good or for another attempt."""
        for spec in specs:
            self._tally.in_flight.pop(spec.episode_id, None)

    def cancelled(self, episodes: int) -> None:
        """So many episodes are no longer wanted: their group has enough."""
        self._tally.cancelled += episodes

    def retried(self, episodes: int) -> None:
        """So many episodes get another attempt."""
        self._tally.retried += episodes

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """An episode is on record."""
        self._tally.add(result)
        for notice in self._endpoint.add(result.requests):
            self.note(notice)
        if self._live is None and time.monotonic() - self._said > _LINE_INTERVAL:
            self._said = time.monotonic()
            self._console.print(self._progress_line(), highlight=False, soft_wrap=True, markup=False)

    def _figure_columns(self) -> dict[str, str]:
        tally = self._tally
        episodes, tokens = tally.rates()
        figures = {
            "running": self._in_flight(),
            "episodes/s": f"{episodes:.2f}",
            "tokens/s": f"{tokens:.0f}",
            "reward": _format_figure(tally.reward.value),
        }
        if (use := self.policy()) is not None:
            figures["model server"] = (
                f"{use.running} running, {use.waiting} waiting, {use.tokens_per_second:.0f} tokens/s, "
                f"KV cache {use.kv_cache_usage:.0%}"
            )
        if (sent := self._endpoint.use) is not None and sent.refused:
            most = "any number" if sent.at_once is None else str(sent.at_once)
            pace = "" if sent.rate is None else f", {sent.rate:.1f}/s"
            figures["requests at once"] = f"{most}{pace} ({sent.refused} refused so far)"
        if tally.utility.count:
            figures["utility"] = _format_figure(tally.utility.value)
        if tally.attack_success.count:
            figures["attack success"] = _format_figure(tally.attack_success.value)
        if tally.retried:
            figures["retried"] = str(tally.retried)
        if tally.cancelled:
            figures["cancelled"] = str(tally.cancelled)
        if late := tally.stragglers():
            task, seconds = late[0]
            figures["stragglers"] = f"{len(late)} ({escape_invisible(task)} for {_format_clock(seconds)})"
        if tally.failures:
            stages = ", ".join(f"{stage} {count}" for stage, count in tally.failures.most_common())
            figures["failed"] = f"{tally.failed} ({stages})"
        return figures

    def _in_flight(self) -> str:
        pool = self.pool()
        limit = pool.limit if pool is not None else None
        held = f" (limit now {limit}: requests are queueing at the model server)" if limit else ""
        return f"{len(self._tally.in_flight)}{held}"

    def _progress_line(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self._figure_columns().items())
        left = self._tally.seconds_left()
        remaining = "" if left is None else f", about {_format_clock(left)} left"
        return f"episodes {self._tally.done}/{self._tally.total}{remaining}, {figures}"

    def _render(self) -> RenderableType:
        tally = self._tally
        left = tally.seconds_left()
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text("episodes", style="bold"),
            ProgressBar(total=max(tally.total, 1), completed=tally.done + tally.cancelled, width=40),
            Text(f"{tally.done}/{tally.total}"),
            Text(_format_clock(time.monotonic() - tally.began), style="dim"),
            Text("" if left is None else f"about {_format_clock(left)} left", style="dim"),
        )
        figures = Text()
        for name, value in self._figure_columns().items():
            style = "red" if name == "failed" else "bold"
            figures.append(f"{name} ", style="dim").append(value, style=style).append("   ")
        return Group(head, figures)


class Stage:
    """One stage of starting up."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._began = 0.0
        self._status = Text()
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self.seconds = 0.0
        self.outcome = ""
        """What to say when it is over: `built`, `reused`, …"""

    def say(self, line: str) -> None:
        """What it is at now."""
        self._status = Text(line, style="dim", overflow="ellipsis", no_wrap=True)
        if self._live is None:
            self._console.print(f"{self._name}: {line}", highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> None:
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.seconds = time.monotonic() - self._began
        if self._live is not None:
            self._live.stop()
            self._live = None
        mark = Text("✗" if error else "✓", style="red" if error else "green")
        tail = Text(f"{self.outcome}", style="dim")
        self._console.print(mark, Text(f"{self._name:<12}"), Text(f"{self.seconds:6.1f} s  "), tail)

    def _render(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        elapsed = Text(_format_clock(time.monotonic() - self._began), style="dim")
        row.add_row(self._spinner, Text(f"{self._name:<12}"), elapsed, self._status)
        return row


def _format_figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _format_clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
