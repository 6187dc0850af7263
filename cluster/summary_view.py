"""A summary as a researcher likes to read it on a terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.rates import Rate, ScoreRow
from cluster.summary import Summary

_MISSING = "–"
_EXPLANATION = Text(
    "In brackets: Wilson 95 % intervals. Failed episodes are in no rate.\n"
    "benign: user tasks alone. attack: user tasks under attack; attack success is the targeted rate.\n"
    "injection: injection tasks alone.\n",
    style="dim",
)


def render(summary: Summary) -> RenderableType:
    """Lay a summary out for rich: what was done, the scores, and where the time went."""
    parts: list[RenderableType] = [_headline(summary), _scores(summary)]
    if summary.scores:
        parts.append(_rates([row for row in summary.scores if row.injection_task is None]))
        by_task = [row for row in summary.scores if row.injection_task is not None]
        parts += [_rates(by_task), _EXPLANATION] if by_task else [_EXPLANATION]
    others = _other_metrics(summary)
    if others is not None:
        parts.append(others)
    if summary.seconds:
        parts.append(_times(summary))
    return Group(*parts)


def _headline(summary: Summary) -> Text:
    ended = summary.finished + summary.failed
    of_planned = f" of {summary.planned:,}" if summary.planned not in (None, ended) else ""
    text = Text.assemble(
        (summary.run_id, "bold"),
        f"  {summary.environment or 'no episode has ended'}\n",
        f"{ended:,}{of_planned} episodes: {summary.finished:,} finished, ",
        (f"{summary.failed:,} failed", "red" if summary.failed else ""),
    )
    if summary.failures:
        text.append(" (" + ", ".join(f"{stage} {count:,}" for stage, count in summary.failures.items()) + ")")
    text.append(f"\n{summary.prompt_tokens:,} prompt tokens, {summary.completion_tokens:,} sampled")
    if summary.wall_seconds is not None and summary.episodes_per_second is not None:
        text.append(f"; {summary.wall_seconds:,.1f} s, {summary.episodes_per_second:,.2f} episodes/s")
    return text


def _scores(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=len(summary.rows) > 1, pad_edge=False)
    ended = summary.finished + summary.failed
    with_modes = any(row.mode for row in summary.rows)
    table.add_column("suite" if with_modes else "environment", "all")
    if with_modes:
        table.add_column("mode")
    for name, total in (
        ("episodes", f"{ended:,}"),
        ("failed", f"{summary.failed:,}"),
        ("reward", _score(summary.reward)),
        ("utility", _score(summary.metrics.get("utility"))),
        ("attack success", _score(summary.metrics.get("attack_success"))),
    ):
        table.add_column(name, total, justify="right")
    for row in summary.rows:
        table.add_row(
            row.suite,
            *([row.mode or _MISSING] if with_modes else []),
            f"{row.episodes:,}",
            Text(f"{row.failed:,}", style="red" if row.failed else ""),
            _score(row.reward),
            _score(row.utility),
            _score(row.attack_success),
        )
    return table


def _rates(rows: list[ScoreRow]) -> Table:
    """Rates by mode, attack and suite, and by injection task where the rows are of single ones."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    by_task = any(row.injection_task for row in rows)
    for name in ("mode", "attack", "suite", *(["injection task"] if by_task else [])):
        table.add_column(name)
    for name in ("of", "failed", "utility", "attack success"):
        table.add_column(name, justify="right")
    several = len({row.suite for row in rows if row.suite is not None}) > 1
    for row in rows:
        if row.suite is None and not several:
            continue
        table.add_row(
            row.mode,
            row.attack or _MISSING,
            row.suite or "all suites",
            *([row.injection_task] if by_task else []),
            f"{row.finished:,}",
            Text(f"{row.failed:,}", style="red" if row.failed else ""),
            _rate(row.utility),
            _rate(row.attack_success),
            style="bold" if row.suite is None else None,
        )
    return table


def _rate(rate: Rate | None) -> str:
    return _MISSING if rate is None else f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _other_metrics(summary: Summary) -> Text | None:
    others = {
        name: mean for name, mean in summary.metrics.items() if name not in ("utility", "attack_success")
    }
    if not others:
        return None
    return Text("metrics: " + ", ".join(f"{name} {_score(mean)}" for name, mean in others.items()) + "\n")


def _times(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seconds")
    for stage in summary.seconds:
        table.add_column(stage, justify="right")
    for name, read in (
        ("mean", [seconds.mean for seconds in summary.seconds.values()]),
        ("p50", [seconds.p50 for seconds in summary.seconds.values()]),
        ("p95", [seconds.p95 for seconds in summary.seconds.values()]),
    ):
        table.add_row(name, *(f"{value:,.3f}" for value in read))
    return table


def _score(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"
