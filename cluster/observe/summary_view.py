"""A summary as a researcher likes to read it on a terminal."""

from itertools import groupby

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from cluster.observe.cost import Cost
from cluster.observe.failure_groups import FailureGroup
from cluster.observe.pass_rates import PassRate, TaskShare
from cluster.observe.policy_use import PolicyShares
from cluster.observe.printing import escape_invisible, render_table, terminal_width
from cluster.observe.rates import Rate, ScoreRow
from cluster.observe.summary import Summary

_NO_VALUE = "–"
_MAX_CAUSES_SHOWN = 10
_IDLE_CAUSES = {
    "ramp_up": "run was starting",
    "tail": "run was ending",
    "trainer": "trainer was learning",
    "places": "`workers` too small",
    "sandbox": "episodes waited for a sandbox",
    "tools": "episodes ran tools",
    "scoring": "episodes were scored",
    "ingest": "episodes were recorded",
}
"""Why the model server's batch was not full, in words, by the cause in `summary.json`."""
_RATES_EXPLANATION = Text(
    "benign: user tasks without attack; attack: user tasks under attack; injection: only injection tasks. "
    "Numbers in brackets are Wilson 95 % intervals, which take samples of one task as dependent. Failed "
    "episodes are not counted in the rates.\n",
    style="dim",
)
_MAX_K_SHOWN = 10


def render_summary(summary: Summary) -> RenderableType:
    """Render a summary for rich: what was done, the scores, and where the time went."""
    parts: list[RenderableType] = [_headline_text(summary), _score_table(summary)]
    if summary.scores:
        parts += [_RateTable(rows) for rows in _split_rows_by_kind(summary.scores)]
        parts.append(_RATES_EXPLANATION)
    for rows in _pass_rates_to_show(summary.passes):
        parts += [_pass_title(rows[0]), _pass_table(rows)]
    others = _other_metrics_text(summary)
    if others is not None:
        parts.append(others)
    if summary.policy is not None:
        parts.append(_policy_text(summary.policy))
    if summary.seconds:
        parts.append(_time_table(summary))
    if summary.failure_groups:
        parts.append(_failure_text(summary.failure_groups))
    return Group(*parts)


def _headline_text(summary: Summary) -> Text:
    ended = summary.finished + summary.failed
    missing = summary.planned is not None and summary.planned != ended + summary.cancelled
    of_planned = f" of {summary.planned:,}" if missing else ""
    text = Text.assemble(
        (summary.run_id, "bold"),
        f"  {summary.environment or 'no episode has ended'}\n",
        f"{ended:,}{of_planned} episodes: {summary.finished:,} finished, ",
        (f"{summary.failed:,} failed", "red" if summary.failed else ""),
    )
    if summary.cancelled:
        text.append(f", {summary.cancelled:,} cancelled")
    if summary.failures:
        text.append(" (" + ", ".join(f"{stage} {count:,}" for stage, count in summary.failures.items()) + ")")
    text.append(f"\n{summary.prompt_tokens:,} prompt tokens, {summary.completion_tokens:,} sampled")
    if summary.wall_seconds is not None and summary.episodes_per_second is not None:
        text.append(f"; {summary.wall_seconds:,.1f} s, {summary.episodes_per_second:,.2f} episodes/s")
    if summary.cost is not None:
        text.append(f"\n{_describe_cost(summary.cost)}")
    return text


def _describe_cost(cost: Cost) -> str:
    text = f"cost {cost.total:,.4g}: {cost.per_episode:,.4g} per episode"
    if cost.per_pass is not None:
        text += f", {cost.per_pass:,.4g} per episode whose reward is at least 1"
    if cost.cached_tokens is not None:
        text += f"; {cost.cached_tokens:,} prompt tokens were cached"
    return text


def _pass_rates_to_show(passes: list[PassRate]) -> list[list[PassRate]]:
    """The reward's rows, and those of metrics that say something else and are not 0 or 1 throughout."""
    groups = [list(rows) for _, rows in groupby(passes, key=lambda row: row.metric)]
    shown: list[list[PassRate]] = []
    for rows in groups:
        values = [(row.any_passes.value, row.all_pass.value) for row in rows]
        known = [[(row.any_passes.value, row.all_pass.value) for row in other] for other in shown]
        is_constant = len({value for pair in values for value in pair} | {0.0, 1.0}) == 2
        if rows[0].metric == "reward" or not (is_constant or values in known):
            shown.append(rows)
    return shown


def _pass_title(row: PassRate) -> Text:
    condition = "reward at least 1" if row.metric == "reward" else f"{row.metric} 1"
    return Text(f"samples of a task with {condition}: any of k (pass@k), all of k (pass^k)", style="bold")


def _pass_table(rows: list[PassRate]) -> Table:
    """pass@k and pass^k of one metric; of many k, the powers of two and the last."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("k", "tasks", "pass@k", "pass^k"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if len(rows) <= _MAX_K_SHOWN or row.k & (row.k - 1) == 0 or row is rows[-1]:
            table.add_row(
                f"{row.k}", f"{row.tasks:,}", _format_share(row.any_passes), _format_share(row.all_pass)
            )
    return table


def _format_share(share: TaskShare) -> str:
    return f"{share.value:.3f} [{share.low:.2f}, {share.high:.2f}]"


def _score_table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=len(summary.rows) > 1, pad_edge=False)
    ended = summary.finished + summary.failed
    with_modes = any(row.mode for row in summary.rows)
    table.add_column("suite" if with_modes else "environment", "all")
    if with_modes:
        table.add_column("mode")
    for name, total in (
        ("episodes", f"{ended:,}"),
        ("failed", f"{summary.failed:,}"),
        ("reward", _format_score(summary.reward)),
    ):
        table.add_column(name, total, justify="right")
    if with_modes:  # which only environments with suites have, and these two with them
        table.add_column("utility", _format_score(summary.metrics.get("utility")), justify="right")
        table.add_column(
            "attack success", _format_score(summary.metrics.get("attack_success")), justify="right"
        )
    for row in summary.rows:
        table.add_row(
            Text(escape_invisible(row.suite)),  # an environment's own text, which may look like rich's markup
            *([row.mode or _NO_VALUE] if with_modes else []),
            f"{row.episodes:,}",
            Text(f"{row.failed:,}", style="red" if row.failed else ""),
            _format_score(row.reward),
            *([_format_score(row.utility), _format_score(row.attack_success)] if with_modes else []),
        )
    return table


def _split_rows_by_kind(rows: list[ScoreRow]) -> list[list[ScoreRow]]:
    """Rows that make a table of their own: those of suites by mode and attack, then those of single tasks."""
    kinds = groupby(rows, key=lambda row: (row.injection_task is None, row.mode, row.attack))
    return [list(group) for _, group in kinds]


class _RateTable:
    """A table of rates with their intervals, none of which is ever cut."""

    def __init__(self, rows: list[ScoreRow]) -> None:
        first = rows[0]
        what = f"{first.mode}, {first.attack}" if first.attack else first.mode
        self._title = f"{what}, by injection task" if first.injection_task else what
        if len({row.suite for row in rows if row.suite is not None}) == 1:
            rows = [row for row in rows if row.suite is not None]  # all suites together are that one
        self._columns = {"suite": [row.suite or "all suites" for row in rows]}
        if first.injection_task:
            self._columns["injection task"] = [row.injection_task or "" for row in rows]
        self._columns["of"] = [f"{row.finished:,}" for row in rows]
        if any(row.failed for row in rows):
            self._columns["failed"] = [f"{row.failed:,}" for row in rows]
        self._columns["utility"] = [_format_rate(row.utility) for row in rows]
        if first.mode == "attack":
            self._columns["attack success"] = [_format_rate(row.attack_success) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders it for a terminal, or a pipe."""
        right = self._columns.keys() - {"suite", "injection task"}
        head, *lines = render_table(self._columns, terminal_width(console), right, is_last_whole=True)
        yield Text(self._title, style="bold")
        yield Text(f"{head}\n" + "\n".join(lines) + "\n", no_wrap=True, overflow="ignore")


def _format_rate(rate: Rate | None) -> str:
    return _NO_VALUE if rate is None else f"{rate.value:.3f} [{rate.low:.2f}, {rate.high:.2f}]"


def _other_metrics_text(summary: Summary) -> Text | None:
    shown = ("utility", "attack_success") if any(row.mode for row in summary.rows) else ()
    others = {name: mean for name, mean in summary.metrics.items() if name not in shown}
    if not others:
        return None
    return Text(
        "metrics: "
        + ", ".join(
            f"{escape_invisible(name)} {_format_mean(summary, name, others[name])}" for name in others
        )
        + "\n"
    )


def _format_mean(summary: Summary, name: str, mean: float) -> str:
    found = summary.means.get(name)
    interval = "" if found is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{_format_score(mean)}{interval}"


def _policy_text(policy: PolicyShares) -> Text:
    """One line on how busy the deployment was."""
    rate = _NO_VALUE if policy.prefix_hit_rate is None else f"{policy.prefix_hit_rate:.0%}"
    text = f"model server: {policy.tokens_per_second:,.0f} tokens/s, prefix cache {rate}. "
    text += f"Batch full {policy.busy:.0%} of the time."
    lacking = sorted(policy.waited_for.items(), key=lambda item: -item[1])
    causes = [f"{_IDLE_CAUSES.get(cause, cause)} {share:.0%}" for cause, share in lacking if share >= 0.005]
    return Text(text + (f" Not full because: {', '.join(causes)}." if causes else "") + "\n")


def _failure_text(groups: list[FailureGroup]) -> Text:
    """Why episodes failed: each cause with how many failed of it, one of them, and where it was raised."""
    text = Text("why episodes failed\n", style="bold red")
    for group in groups[:_MAX_CAUSES_SHOWN]:
        said = escape_invisible(group.message)
        text.append(f"{group.count:,} × {group.stage}: {group.type}: {said}", style="not bold")
        text.append(f"\n    example: episode {group.episode_id}\n", style="not bold dim")
        if group.traceback:
            lines = "\n".join(f"    {escape_invisible(line)}" for line in group.traceback.splitlines())
            text.append(f"{lines}\n", style="not bold dim")
    if len(groups) > _MAX_CAUSES_SHOWN:
        text.append(
            f"and {len(groups) - _MAX_CAUSES_SHOWN:,} more causes; `kumite show --json` has all\n",
            style="not bold",
        )
    return text


def _time_table(summary: Summary) -> Table:
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


def _format_score(value: float | None) -> str:
    return _NO_VALUE if value is None else f"{value:.3f}"
