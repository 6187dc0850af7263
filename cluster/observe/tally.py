"""Running figures of a run, from the results as they come in."""

import itertools
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from workers.records import EpisodeResult

_RATE_WINDOW = 30.0
"""Seconds over which rates are taken."""
_STRAGGLES_TIMES = 4.0
"""An episode in flight for so many times the mean of those that finished is a straggler,"""
_STRAGGLES_AFTER = 10.0
"""but not before so many seconds."""


@dataclass
class Mean:
    """The mean of what was added; None before anything was."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Counts a value in, unless it is null."""
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self.total / self.count if self.count else None


@dataclass
class LiveTally:
    """The figures that a live display shows."""

    total: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    """Task and time of dispatch of each episode in flight, by its id; the oldest first."""
    retried: int = 0
    tokens: int = 0
    reward: Mean = field(default_factory=Mean)
    utility: Mean = field(default_factory=Mean)
    attack_success: Mean = field(default_factory=Mean)
    seconds: Mean = field(default_factory=Mean)
    failures: Counter[str] = field(default_factory=Counter[str])
    began: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def add(self, result: EpisodeResult) -> None:
        """Counts an episode that has ended."""
        self.done += 1
        self.tokens += result.usage.completion_tokens
        self._recent.append((time.monotonic(), result.usage.completion_tokens))
        if result.status == "failed":
            self.failed += 1
            self.failures[result.error_stage or "unknown"] += 1
            return
        self.seconds.add(result.timings.total)
        self.reward.add(result.reward)
        self.utility.add(result.metrics.get("utility"))
        self.attack_success.add(result.metrics.get("attack_success"))

    def stragglers(self) -> list[tuple[str, float]]:
        """Task and age, in seconds, of the episodes that take far longer than others do; the oldest first."""
        limit = max(_STRAGGLES_AFTER, _STRAGGLES_TIMES * (self.seconds.value or math.inf))
        before = time.monotonic() - limit
        late = itertools.takewhile(lambda episode: episode[1] < before, self.in_flight.values())
        return [(task, time.monotonic() - since) for task, since in late]

    def seconds_left(self) -> float | None:
        """About how long the rest takes, at the pace of late; None where nothing is left, or has ended."""
        left = self.total - self.done - self.cancelled
        if left <= 0 or not self.done:
            return None
        of_late = self.rates()[0]
        overall = self.done / max(time.monotonic() - self.began, 1e-9)
        return left / (of_late or overall)

    def rates(self) -> tuple[float, float]:
        """Episodes and sampled tokens per second, of late."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - _RATE_WINDOW:
            self._recent.popleft()
        seconds = min(_RATE_WINDOW, now - self.began) or 1.0
        return len(self._recent) / seconds, sum(tokens for _, tokens in self._recent) / seconds
