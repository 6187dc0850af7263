import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.dataset.arrow import pa, pq
from cluster.dataset.conditions import iterate_rows
from cluster.dataset.dataset import Dataset
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import Manifest, ManifestError, write_manifest
from cluster.observe.failure_groups import FailureGroup
from cluster.observe.rates import ScoreRow, wilson_rate
from cluster.observe.summary import Seconds, Summary, SummaryRow, summarise_run, write_summary
from cluster.observe.summary_view import render_summary
from tests.cluster.synthetic import bare_step, episode, failed_episode, line, result, write_segment
from workers.records import EpisodeError, EpisodeRecord, Timings, Usage


async def run_of(run_dir: Path, records: list[EpisodeRecord], *, journalled: int = 0) -> Path:
    """A run folder with these episodes, the last so many of them in the journal alone."""
    async with await Dataset.open(run_dir, "run-1") as dataset:
        for record in records[: len(records) - journalled]:
            await dataset.append(result(record))
        await dataset.commit()
        for record in records[len(records) - journalled :]:
            await dataset.append(result(record))
    return run_dir


def metrics(utility: float | None, attack_success: float | None = None) -> str:
    return json.dumps({"utility": utility, "attack_success": attack_success})


ATTACK = {"attack": "direct", "injection_task": "injection_task_0"}
EPISODES = [
    episode(0, metrics=metrics(1.0), reward=1.0),
    episode(1, metrics=metrics(0.0), reward=0.0),
    episode(2, metrics=metrics(1.0, 1.0), reward=0.25, **ATTACK),
    episode(3, metrics=metrics(1.0, 0.0), reward=0.75, **ATTACK),
    failed_episode(4, **ATTACK),
    episode(5, suite="travel", user_task=None, injection_task="injection_task_1", metrics=metrics(None, 1.0)),
    failed_episode(6, suite="travel", error=EpisodeError.of("policy", "policy", ValueError())),
]
FAILED = {record.episode_id: record.error for record in EPISODES if record.error}


UNDER_ATTACK: Any = {"utility": (2, 2), "attack_success": (1, 2), "utility_and_security": (1, 2)}
"""Rates of banking's two finished episodes under attack."""


@pytest.mark.parametrize("journalled", [0, 3, 7])
async def test_summary_counts_shards_and_journal_alike(tmp_path: Path, journalled: int):
    summary = summarise_run(
        await run_of(tmp_path, EPISODES, journalled=journalled), planned=9, wall_seconds=3.5
    )
    means = {name: (mean.value, mean.episodes, mean.tasks) for name, mean in summary.means.items()}
    assert means == {"attack_success": (2 / 3, 3, 3), "reward": (0.6, 5, 5), "utility": (0.75, 4, 4)}
    assert summary.model_copy(update={"means": {}}) == Summary(
        run_id="run-1",
        environment="agentdojo",
        planned=9,
        finished=5,
        failed=2,
        failures={"policy": 1, "setup": 1},
        failure_groups=[
            FailureGroup(**error.model_dump(), count=1, episode_id=failed) for failed, error in FAILED.items()
        ],
        reward=0.6,
        metrics={"utility": 0.75, "attack_success": 2 / 3},
        rows=[
            row("banking", "benign", 2, 0, reward=0.5, utility=0.5),
            row("banking", "attack", 3, 1, reward=0.5, utility=1.0, attack_success=0.5),
            row("travel", "benign", 1, 1),
            row("travel", "injection", 1, 0, reward=1.0, attack_success=1.0),
        ],
        scores=[
            scored(None, "benign", 2, 1, utility=(1, 2)),
            scored("banking", "benign", 2, 0, utility=(1, 2)),
            scored("travel", "benign", 0, 1),
            scored(None, "attack", 2, 1, "direct", **UNDER_ATTACK),
            scored("banking", "attack", 2, 1, "direct", **UNDER_ATTACK),
            scored(None, "injection", 1, 0, attack_success=(1, 1)),
            scored("travel", "injection", 1, 0, attack_success=(1, 1)),
            scored("banking", "attack", 2, 1, "direct", "injection_task_0", **UNDER_ATTACK),
            scored("travel", "injection", 1, 0, None, "injection_task_1", attack_success=(1, 1)),
        ],
        seconds={
            stage: Seconds(mean=seconds, p50=seconds, p95=seconds)
            for stage, seconds in EPISODES[0].timings.model_dump().items()
        },
        prompt_tokens=70,
        completion_tokens=14,
        wall_seconds=3.5,
        episodes_per_second=2.0,
    )


def scored(
    suite: str | None,
    mode: str,
    finished: int,
    failed: int,
    attack: str | None = None,
    injection_task: str | None = None,
    **rates: tuple[int, int],
) -> ScoreRow:
    """A row of scores; each rate is given as successes of episodes."""
    found = {name: wilson_rate(*rate) for name, rate in rates.items()}
    found = {"utility": None, "attack_success": None, **found}
    labels = {"suite": suite, "mode": mode, "attack": attack, "injection_task": injection_task}
    return ScoreRow.model_validate({**labels, "finished": finished, "failed": failed, **found})


def row(
    suite: str,
    mode: str | None,
    episodes: int,
    failed: int,
    reward: float | None = None,
    utility: float | None = None,
    attack_success: float | None = None,
) -> SummaryRow:
    return SummaryRow.model_validate(locals())


async def test_error_is_never_a_score(tmp_path: Path):
    scored_failure = failed_episode(1, reward=1.0, metrics=metrics(1.0, 1.0), **ATTACK)
    summary = summarise_run(await run_of(tmp_path, [scored_failure]))
    assert (summary.reward, summary.metrics, summary.seconds) == (None, {}, {})
    assert summary.rows == [row("banking", "attack", 1, 1)]
    assert [(one.finished, one.failed, one.utility, one.attack_success) for one in summary.scores] == 3 * [
        (0, 1, None, None)
    ]


async def test_environment_without_suites_is_one_row(tmp_path: Path):
    changes = {"environment": "counting", "suite": None, "user_task": None, "metrics": '{"exact": 0.5}'}
    records = [episode(number, **changes) for number in range(3)]
    summary = summarise_run(await run_of(tmp_path, records))
    assert summary.rows == [row("counting", None, 3, 0, reward=1.0)]
    assert summary.metrics == {"exact": 0.5}
    assert summary.scores == []


async def test_seconds_are_those_of_finished_episodes(tmp_path: Path):
    records = [episode(number, timings=Timings(total=float(number))) for number in range(101)]
    records.append(failed_episode(101, timings=Timings(total=1000.0)))
    total = summarise_run(await run_of(tmp_path, records)).seconds["total"]
    assert (total.mean, total.p50, total.p95) == (50.0, 50.0, 95.0)


async def test_planned_and_wall_time_come_from_the_manifest(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        await dataset.set_planned(4)
        await dataset.append(result(episode(0)))
        await dataset.commit(wall_seconds=0.5)
    summary = summarise_run(tmp_path)
    assert (summary.planned, summary.wall_seconds, summary.episodes_per_second) == (4, 0.5, 2.0)


def test_run_at_work_is_summarised_up_to_its_torn_tail(tmp_path: Path):
    write_manifest(tmp_path, Manifest(run_id="run-1"))
    segment = write_segment(tmp_path / "journal" / "000001.jsonl", [episode(0, steps=[bare_step(0, True)])])
    with segment.open("ab") as file:
        file.write(line(episode(1).model_dump_json())[:-10])
    assert summarise_run(tmp_path).finished == 1


async def test_samples_of_one_task_are_no_independent_episodes(tmp_path: Path):
    def run(name: str, tasks: list[int]) -> list[EpisodeRecord]:
        return [
            episode(number, task_id=f"t{task}", metrics=metrics(float(task % 2)), reward=float(task % 2))
            for number, task in enumerate(tasks)
        ]

    apart = summarise_run(await run_of(tmp_path / "apart", run("apart", list(range(16)))))
    together = summarise_run(await run_of(tmp_path / "together", run("together", [0, 1, 2, 3] * 4)))
    assert apart.reward == together.reward == 0.5
    assert (together.means["reward"].episodes, together.means["reward"].tasks) == (16, 4)
    assert together.means["reward"].high > apart.means["reward"].high + 0.1
    utility = [next(row.utility for row in each.scores if row.suite is None) for each in (apart, together)]
    assert utility[0] == wilson_rate(8, 16)
    assert utility[1] is not None and utility[1].low < wilson_rate(8, 16).low - 0.1
    assert apart.passes == []
    rates = {(row.metric, row.k): row for row in together.passes}
    assert set(rates) == {(name, k) for name in ("reward", "utility") for k in (1, 2, 3, 4)}
    assert {row.any_passes.value for row in together.passes} == {0.5}  # a task's samples all agree
    text = " ".join(shown(together).split())
    assert "samples of a task with reward at least 1: any of k (pass@k), all of k (pass^k)" in text
    assert "4 4 0.500 [0.13, 0.87] 0.500 [0.13, 0.87]" in text


async def test_the_cost_follows_from_the_prices_in_the_config(tmp_path: Path):
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=500_000, cached_tokens=400_000)
    records = [episode(0, usage=usage), episode(1, usage=usage, reward=0.0), failed_episode(2)]
    run = await run_of(tmp_path, records, journalled=1)
    assert summarise_run(run).cost is None
    config = run / "config.yaml"
    config.write_text("policy: {price: {input: 1.0, output: 4.0, cached: 0.5}}")
    summary = summarise_run(run)
    assert summary.cached_tokens == 800_000
    dear = 10 * 1e-6 + 2 * 4e-6  # of the tokens of the episode that failed
    assert summary.cost is not None and summary.cost.total == pytest.approx(1.2 + 0.4 + 4.0 + dear)
    assert summary.cost.per_pass == summary.cost.total
    assert summary.cost.per_episode == pytest.approx(summary.cost.total / 3)
    assert "cost 5.6: 1.867 per episode, 5.6 per episode whose reward is at least 1" in shown(summary)
    config.write_text("policy: {price: {input: 1.0, output: 4.0}}")
    whole = summarise_run(run).cost
    assert whole is not None and whole.total == pytest.approx(6.0 + dear)


async def test_a_run_of_an_older_version_lacks_columns_and_is_read(tmp_path: Path):
    run = await run_of(tmp_path, EPISODES)
    for file in (run / "episodes").iterdir():
        table = pq.read_table(file)
        usage = [
            {name: row[name] for name in ("prompt_tokens", "completion_tokens")}
            for row in table["usage"].to_pylist()
        ]
        older = table.drop_columns(["usage", "details", "connections"]).append_column(
            "usage", pa.array(usage)
        )
        pq.write_table(older, file)
    summary = summarise_run(run)
    assert (summary.prompt_tokens, summary.cached_tokens) == (70, None)
    assert len(list(iterate_rows(run))) == len(list(iterate_records(run))) == len(EPISODES)


async def test_run_without_episodes_has_a_summary(tmp_path: Path):
    summary = summarise_run(await run_of(tmp_path, []), wall_seconds=1.0)
    assert (summary.environment, summary.finished, summary.rows) == (None, 0, [])
    assert "no episode has ended" in shown(summary)


def test_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match="holds no run"):
        summarise_run(tmp_path)


async def test_written_summary_reads_back(tmp_path: Path):
    summary = summarise_run(await run_of(tmp_path, EPISODES))
    path = write_summary(tmp_path, summary)
    assert path == tmp_path / "summary.json"
    assert Summary.model_validate_json(path.read_bytes()) == summary


def shown(summary: Summary) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(render_summary(summary))
    return capture.get()


async def test_view_shows_scores_failures_and_times(tmp_path: Path):
    records = [*EPISODES, episode(7, usage=Usage(prompt_tokens=1_000_000), metrics='{"turns": 2.0}')]
    text = shown(summarise_run(await run_of(tmp_path, records), planned=9, wall_seconds=4.0))
    assert "8 of 9 episodes: 6 finished, 2 failed (policy 1, setup 1)" in text
    assert "1,000,070 prompt tokens, 14 sampled; 4.0 s, 2.00 episodes/s" in text
    lines = [text_line.split() for text_line in text.splitlines()]
    assert ["banking", "attack", "3", "1", "0.500", "1.000", "0.500"] in lines
    assert ["travel", "benign", "1", "1", "–", "–", "–"] in lines
    assert ["p95", "1.000", "2.000", "3.000", "4.000", "5.000", "15.000"] in lines
    assert "metrics: turns 2.000 [2.00, 2.00]" in text


async def test_view_of_an_environment_without_suites_has_no_columns_of_those_that_have(tmp_path: Path):
    changes = {"environment": "shell", "suite": None, "user_task": None, "metrics": '{"solved": 0.5}'}
    text = shown(summarise_run(await run_of(tmp_path, [episode(0, **changes), episode(1, **changes)])))
    assert ["environment", "episodes", "failed", "reward"] in [line.split() for line in text.splitlines()]
    assert "metrics: solved 0.500" in text


async def test_view_shows_texts_of_an_environment_as_they_are(tmp_path: Path):
    """A closing tag of rich's raises an error, an opening one vanishes, and ESC drives the terminal."""
    text = "[/INST] [red] \x1b[2J"
    told = {"suite": text, "user_task": None, "metrics": json.dumps({text: 0.5})}
    error = EpisodeError(stage="scoring", kind="environment", type="ValueError", message=text, traceback=text)
    records = [episode(0, **told), failed_episode(1, suite=text, user_task=None, error=error)]
    view = " ".join(shown(summarise_run(await run_of(tmp_path, records))).split())
    assert view.count("[/INST] [red] \\x1b[2J") >= 3
    assert "\x1b" not in view


async def test_view_shows_rates_with_their_intervals_by_suite_and_by_injection_task(tmp_path: Path):
    text = shown(summarise_run(await run_of(tmp_path, EPISODES)))
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]
    benign = lines.index("benign")
    assert lines[benign + 1] == "suite of failed utility"
    assert lines[benign + 2 : benign + 5] == [
        "all suites 2 1 0.500 [0.09, 0.91]",
        "banking 2 0 0.500 [0.09, 0.91]",
        "travel 0 1 –",
    ]
    assert lines[lines.index("attack, direct") + 2] == "banking 2 1 1.000 [0.34, 1.00] 0.500 [0.09, 0.91]"
    single = lines.index("attack, direct, by injection task")
    assert lines[single + 2] == "banking injection_task_0 2 1 1.000 [0.34, 1.00] 0.500 [0.09, 0.91]"
    assert "Wilson 95 % intervals" in text and "Failed episodes are not counted in the rates." in " ".join(
        text.split()
    )


@pytest.mark.parametrize("width", [80, 100, 140])
async def test_no_rate_is_cut_on_a_terminal(tmp_path: Path, width: int):
    changes = {"suite": "workspace", "injection_task": "injection_task_13", "attack": "direct"}
    records = [
        episode(0, metrics='{"utility": 1.0, "attack_success": 1.0}', **changes),
        failed_episode(1, **changes),
    ]
    summary = summarise_run(await run_of(tmp_path, records))
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(render_summary(summary))
    lines = [line.split() for line in capture.get().splitlines()]
    rate = ["1.000", "[0.21,", "1.00]"]
    assert ["workspace", "injection_task_13", "1", "1", *rate, *rate] in lines
