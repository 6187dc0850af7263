"""Running figures of a run, from the results as they come in."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from workers.records import EpisodeResult

_WINDOW = 30.0
"""Seconds over which rates are taken."""


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
class Tally:
    """What a live display shows."""

    total: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    retried: int = 0
    tokens: int = 0
    reward: Mean = field(default_factory=Mean)
    utility: Mean = field(default_factory=Mean)
    attack_success: Mean = field(default_factory=Mean)
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
        self.reward.add(result.reward)
        self.utility.add(result.metrics.get("utility"))
        self.attack_success.add(result.metrics.get("attack_success"))

    def rates(self) -> tuple[float, float]:
        """Episodes and sampled tokens per second, of late."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - _WINDOW:
            self._recent.popleft()
        seconds = min(_WINDOW, now - self.began) or 1.0
        return len(self._recent) / seconds, sum(tokens for _, tokens in self._recent) / seconds
