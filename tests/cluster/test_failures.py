"""What a user is told of failures: why, how many, when a run stops by itself, and with which exit code."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.config import RunConfig
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.run_folder import Target
from cluster.dataset.shards import iterate_episodes
from cluster.errors import ConfigError, RunStopped
from cluster.observe.failure_groups import FailureGroups, normalise_message
from cluster.observe.failure_row import FailureRow
from cluster.observe.observers import Observers
from cluster.observe.outcome import FailureLimit
from cluster.observe.summary import summarise_run, write_summary
from tests.cluster.observe.test_summary import run_of, shown
from tests.cluster.synthetic import episode, failed_episode, result
from workers.records import EpisodeError, EpisodeResult, EpisodeSpec, FailureKind, Stage, episode_id


def spec(task: int, sample: int = 0) -> EpisodeSpec:
    return EpisodeSpec(
        episode_id=episode_id("e", f"t{task}", sample),
        task_id=f"t{task}",
        group_id=f"r/t{task}",
        sample_index=sample,
        row={"prompt": []},
    )


def outcome(
    of: EpisodeSpec, message: str | None, kind: FailureKind = "policy", stage: Stage = "policy", **changes
):
    fields = {name: getattr(of, name) for name in ("episode_id", "task_id", "group_id", "sample_index")}
    if message is None:
        return result(episode(0, **fields))
    name, _, text = message.partition(": ")
    error = EpisodeError(stage=stage, kind=kind, type=name, message=text)
    failed = result(failed_episode(0, error=error, **fields))
    told = {"failure": kind, "error_stage": stage, "error_message": message, "policy_requests": 0}
    return failed.model_copy(update={**told, "lasting": kind == "policy", **changes})


WRONG_KEY = "PolicyRefusal: Error code: 401 - wrong key (request req_1a2b{})"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("no file /tmp/x1234", "no file /tmp/x99", True),
        ("request 7f3a9c2e11 refused", "request aa3a9c2e10 refused", True),
        ("task 0a1b2c3d-1111-4222-8333-0123456789ab", "task ffffffff-1111-4222-8333-0123456789ab", True),
        ("at 0x7fe0: lost", "at 0x7fff: lost", True),
        ("first line\nsecond 1", "first line\nother", True),
        ("Error code: 401 - no", "Error code: 404 - no", False),
        ("KeyError: 'oops'", "KeyError: 'other'", False),
    ],
)
def test_messages_that_differ_in_numbers_and_ids_only_are_alike(one: str, other: str, alike: bool) -> None:
    assert (normalise_message(one) == normalise_message(other)) is alike


def test_the_causes_of_failures_are_bounded() -> None:
    groups = FailureGroups()
    letters = "ghijklmnopqrstuvwxyz"
    for a in letters:
        for b in letters:
            for c in letters[:5]:
                groups.add("e", {"stage": "tools", "kind": "task", "type": "E", "message": f"{a}{b}{c}"})
    assert len(groups.groups()) == 1001 and sum(group.count for group in groups.groups()) == 2000


async def test_summary_names_each_cause_with_its_count_an_episode_and_where_it_was_raised(
    tmp_path: Path,
) -> None:
    def error(number: int) -> EpisodeError:
        message = f"'oops{number}'\nmore"
        where = '  File "/home/me/env.py", line 7, in score\n    return table["oops"]'
        return EpisodeError(
            stage="scoring", kind="environment", type="KeyError", message=message, traceback=where
        )

    records = [episode(0), *(failed_episode(n, error=error(n)) for n in (1, 2, 3)), failed_episode(4)]
    summary = summarise_run(await run_of(tmp_path, records, journalled=2))
    first, second = summary.failure_groups
    assert (first.stage, first.type, first.message, first.count) == ("scoring", "KeyError", "'oops1'", 3)
    assert first.episode_id == records[1].episode_id and second.count == 1
    written = json.loads(write_summary(tmp_path, summary).read_text())
    assert written["failure_groups"][0]["count"] == 3
    text = shown(summary)
    assert f"3 × scoring: KeyError: 'oops1'\n    example: episode {first.episode_id}" in text
    assert "/home/me/env.py" in text and "line 7, in score" in text
    assert json.loads(CliRunner().invoke(app, ["show", str(tmp_path), "--json"]).stdout) == written


class Everyone:
    """A pool whose workers all say the same."""

    def __init__(self, say) -> None:
        self.say, self.played = say, 0
        self._seats = asyncio.Semaphore(8)

    def expect(self, episodes: int) -> None: ...

    def set_version(self, version: int) -> None: ...

    async def acquire_seat(self, places: int) -> object:
        await self._seats.acquire()
        return object()

    async def release_seat(self, seat: object) -> None:
        self._seats.release()

    async def play(self, unit: list[EpisodeSpec], seat: object) -> list[EpisodeResult]:
        self.played += len(unit)
        return [self.say(of) for of in unit]


async def play(folder: Path, say, count: int, **episode_config: object) -> int:
    config = RunConfig.model_validate(
        {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "episode": episode_config}
    )
    pool = Everyone(say)
    async with await Dataset.open(folder, "run-1") as dataset:
        playing = Coordinator(config, pool, dataset, Observers(), "run-1", "m", tasks=count)  # pyright: ignore
        try:
            await playing.run([[spec(n)] for n in range(count)], count)
        finally:
            await dataset.commit()
    return pool.played


@pytest.mark.slow
async def test_a_run_whose_key_is_wrong_stops_and_names_the_cause(tmp_path: Path) -> None:
    def say(of: EpisodeSpec) -> EpisodeResult:
        return outcome(of, WRONG_KEY.format(of.task_id[1:]))

    with pytest.raises(RunStopped, match=r"\d+ episodes in a row .* 401 - wrong key"):
        await play(tmp_path, say, 10_000)
    on_record = sum(len(table) for table in iterate_episodes(tmp_path, ["episode_id"]))
    assert 20 <= on_record < 10_000  # how many are under way when it stops is chance


async def test_how_many_in_a_row_stop_a_run_is_a_key_of_the_config(tmp_path: Path) -> None:
    def say(of: EpisodeSpec) -> EpisodeResult:
        return outcome(of, "KeyError: 'oops'", "environment", "scoring")

    with pytest.raises(RunStopped, match=r"\d+ episodes in a row"):
        await play(tmp_path / "a", say, 100, stop_after=3)
    assert await play(tmp_path / "b", say, 100, stop_after=None) == 100


@pytest.mark.parametrize(
    "say",
    [
        lambda n, of: outcome(of, None if n % 10 == 0 else WRONG_KEY),  # some finish
        lambda n, of: outcome(of, f"{'KeyError' if n % 2 else 'ValueError'}: no", "environment"),
        lambda n, of: outcome(of, "PolicyError: connection refused", lasting=False),
        lambda n, of: outcome(of, WRONG_KEY, policy_requests=3),  # not its first request
        lambda n, of: outcome(of, "SandboxDied: it died", "sandbox", "tools"),
        lambda n, of: outcome(of, "SessionTimeout: too slow", "task", "setup"),
    ],
)
def test_a_run_goes_on_where_trying_again_may_help_or_causes_differ(say) -> None:
    row = FailureRow(20, tasks=100)
    for n in range(100):
        row.add(spec(n), say(n, spec(n)))
        assert row.reason is None


def test_one_broken_task_among_several_stops_no_run() -> None:
    row = FailureRow(20, tasks=2)
    for sample in range(64):
        row.add(spec(0, sample), outcome(spec(0, sample), "KeyError: 'x'", "environment", "setup"))
    assert row.reason is None
    row.add(spec(1), outcome(spec(1), "KeyError: 'x'", "environment", "setup"))
    assert row.reason is not None


@pytest.mark.parametrize(
    ("given", "finished", "failed", "complains"),
    [
        ("0.5", 5, 5, False),
        ("0.5", 4, 6, True),
        ("10%", 9, 1, False),
        ("10%", 8, 2, True),
        ("2", 1, 2, False),
        ("2", 100, 3, True),
        ("1.0", 0, 3, True),
        ("1.0", 0, 0, False),
        ("0", 5, 1, True),
    ],
)
async def test_most_failures_are_a_count_or_a_share(
    tmp_path: Path, given: str, finished: int, failed: int, complains: bool
) -> None:
    records = [*map(episode, range(finished)), *(failed_episode(finished + n) for n in range(failed))]
    summary = summarise_run(await run_of(tmp_path, records))
    assert (FailureLimit(given).complaint(summary) is not None) is complains


@pytest.mark.parametrize("given", ["half", "-1", "1.5", "200%", ""])
def test_most_failures_that_are_neither_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--max-failed: got .* give a count"):
        FailureLimit(given)


async def test_exit_code_of_a_run_that_failed_is_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("environment: {id: e}\npolicy: {kind: oracle}\n")
    await run_of(tmp_path / "bad", [episode(0), failed_episode(1), failed_episode(2)])

    def run(*_: object) -> object:
        return summarise_run(tmp_path / "bad")

    def stop(_: object, target: Target, __: object) -> object:
        raise RunStopped("20 episodes in a row: 401")

    def invoke(*options: str):
        return CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "bad"), *options])

    monkeypatch.setattr(Target, "new", lambda config, out: Target(tmp_path / "bad", "run-1"))
    monkeypatch.setattr("cluster.run.run", run)
    assert [invoke().exit_code, invoke("--max-failed", "2").exit_code] == [3, 0]
    monkeypatch.setattr("cluster.run.run", stop)
    stopped = invoke("--max-failed", "1.0")
    assert stopped.exit_code == 3
    assert "why episodes failed" in stopped.stdout and "401" in stopped.output
