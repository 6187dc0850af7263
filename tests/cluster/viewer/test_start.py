"""What the viewer does not do before its first page: import what plays episodes, or read a run whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.dataset.arrow import pq
from cluster.viewer.library import Library
from cluster.viewer.run_list import run_key
from tests.cluster.viewer.made_up_agents import EMPTY_WORKSPACE, WORKSPACE_ID, shell_episode
from tests.cluster.viewer.made_up_runs import mixed_records, write_run

_SLOW = ("verifiers", "anthropic", "openai", "ray", "torch", "transformers", "datasets", "agentdojo", "scipy")
_PROGRAM = """
import json, sys
from cluster.cli import main
from cluster.observe.token_texts import find_tokenizer_folder
from cluster.viewer import report, view
from cluster.viewer.episode_query import Query
run = view.Library([sys.argv[1]]).runs[0]
assert run.page(Query(), 0, 100)["total"] and run.describe() and run.overview()["episodes"]
find_tokenizer_folder(run.index.folder)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2:]))))
"""


@pytest.mark.slow
def test_a_page_is_there_without_the_packages_that_play_episodes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(4))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(run), *_SLOW],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_first_page_of_a_finished_run_reads_its_first_shard_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", mixed_records(40), segment_records=10)
    first, *others = sorted((folder / "episodes").iterdir())
    (run,) = Library([str(folder)]).runs
    for shard in others:
        shard.rename(shard.with_suffix(".away"))
    found = run.index.beginning(10)
    assert found is not None
    rows, total = found
    assert (rows.num_rows, total) == (pq.read_metadata(first).num_rows, 40)


def test_a_run_of_an_older_version_shows_its_tools(tmp_path: Path) -> None:
    states = {WORKSPACE_ID: json.dumps(EMPTY_WORKSPACE)}
    folder = write_run(tmp_path / "run", [shell_episode()], states=states)
    (run,) = Library([str(folder)]).runs
    assert run.tool_use() == [{"name": "write_file", "calls": 1, "episodes": 1, "errors": 1}]
    for file in (folder / "steps").iterdir():
        pq.write_table(pq.read_table(file).drop_columns(["tool_errors"]), file)
    (older,) = Library([str(folder)]).runs
    assert older.tool_use() == [{"name": "write_file", "calls": 1, "episodes": 1, "errors": None}]


def test_a_runs_name_means_nothing_in_an_address(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run@3 #1?x=%2F", mixed_records(8))
    (run,) = Library([str(folder)]).runs
    assert run.key == run_key(str(folder)) and run.key.startswith("a-run-3--1-x--2F-")
    found = Library([str(folder)]).compare([run.key, f"{run.key}@3"])
    assert found["runs"] == [str(folder), f"{folder}@3"]


def test_samples_are_those_of_the_very_task(tmp_path: Path) -> None:
    records = [
        record.model_copy(update={"task_id": task, "sample_index": 1 - index % 2})
        for index, (record, task) in enumerate(zip(mixed_records(4), [" t ", " t ", "t", ""], strict=True))
    ]
    (run,) = Library([str(write_run(tmp_path / "run", records))]).runs
    ids = [[sample["episode_id"] for sample in run.samples(record.episode_id)] for record in records]
    assert ids == [
        [records[1].episode_id, records[0].episode_id],
        [records[1].episode_id, records[0].episode_id],
        [records[2].episode_id],
        [records[3].episode_id],
    ]
