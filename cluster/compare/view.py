"""What `kumite compare` prints."""

from collections.abc import Iterator

from cluster.compare.comparison import RunPair
from cluster.observe.printing import Line, render_table


def comparison_lines(pairs: list[RunPair], width: int | None) -> Iterator[Line]:
    """A table of metrics for each pair of runs, and the tasks that changed most.

    Args:
        pairs: What was compared.
        width: The terminal's columns; None in a pipe.
    """
    for pair in pairs:
        yield Line(f"{pair.first} → {pair.second}", style="bold")
        yield Line(_describe_pairs(pair))
        if pair.metrics:
            yield from map(Line, _metric_lines(pair, width))
            yield Line(
                "Differences with their 95 % intervals, by a bootstrap over tasks. p: McNemar's exact test "
                "of a metric that is 0 or 1. sign p: the exact sign test over tasks."
                + (_SAMPLES_NOTE if pair.samples_per_task else ""),
                style="dim",
            )
        if pair.changed:
            yield Line("")
            yield Line("tasks whose reward changed most", style="bold")
            yield from map(Line, _change_lines(pair, width))
        yield Line("")


_SAMPLES_NOTE = " p takes samples of a task as independent, which they are not: go by sign p."


def _describe_pairs(pair: RunPair) -> str:
    text = f"{pair.pairs:,} pairs of episodes, by {pair.paired_by}"
    for count, what in (
        (pair.failed, "of them with a failed episode, in no mean"),
        (pair.only_first, "only in the first run"),
        (pair.only_second, "only in the second run"),
    ):
        text += f"; {count:,} {what}" if count else ""
    return text


def _metric_lines(pair: RunPair, width: int | None) -> list[str]:
    rows = pair.metrics
    columns = {
        "metric": [row.metric for row in rows],
        "pairs": [f"{row.pairs:,}" for row in rows],
        "first": [f"{row.first:.3f}" for row in rows],
        "second": [f"{row.second:.3f}" for row in rows],
        "difference": [f"{row.difference:+.3f}" for row in rows],
        "95 %": [f"[{row.low:+.3f}, {row.high:+.3f}]" for row in rows],
        "0→1": ["" if row.gained is None else f"{row.gained:,}" for row in rows],
        "1→0": ["" if row.lost is None else f"{row.lost:,}" for row in rows],
        "p": ["" if row.mcnemar_p is None else f"{row.mcnemar_p:.2g}" for row in rows],
        "tasks ↑↓": [f"{row.tasks_up:,} {row.tasks_down:,}" for row in rows],
        "sign p": [f"{row.sign_p:.2g}" for row in rows],
    }
    return render_table(columns, width, right=set(columns) - {"metric"})


def _change_lines(pair: RunPair, width: int | None) -> list[str]:
    columns = {
        "change": [f"{change.difference:+.3f}" for change in pair.changed],
        "first": [f"{change.first:.3f}" for change in pair.changed],
        "second": [f"{change.second:.3f}" for change in pair.changed],
        "task": [change.task_id for change in pair.changed],
    }
    return render_table(columns, width, right=("change", "first", "second"))
