"""Samples of one measure, and how a table words them."""

import math
import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table


def median_and_p95(seconds: Sequence[float]) -> str:
    """Median and 95th percentile of times, in ms, and how many there were."""
    median, p95 = format_ms(statistics.median(seconds)), format_ms(percentile(seconds, 95))
    return f"{median}, p95 {p95} (n={len(seconds)})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def format_ms(seconds: float) -> str:
    """A time in ms, to three significant figures."""
    value = seconds * 1000
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def compare_rates(rate: float, peer_rate: float, target: float) -> str:
    """How many times the peer's a rate is, and whether that is as many as it should be."""
    times = rate / peer_rate
    return f"{times:.1f}× {'✓' if times >= target else f'✗ (target {target:g}×)'}"


def make_stage_table(title: str, seconds: Mapping[str, float]) -> Table:
    """Mean seconds by stage."""
    table = Table(title=title)
    for name in seconds:
        table.add_column(name, justify="right")
    table.add_row(*(f"{mean:.3f}" for mean in seconds.values()))
    return table


def format_verdict(value: float, target: float, text: str) -> str:
    """A target beside what was reached, for a measure that should be small."""
    return f"{text} [green]✓[/green]" if value <= target else f"{text} [red]✗[/red]"
