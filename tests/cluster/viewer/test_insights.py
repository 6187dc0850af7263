"""What the viewer finds out about a run: files, tokens, injections, tools, versions, more than two runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.viewer.file_changes import diff_files, has_files
from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.report import write_report
from tests.cluster.viewer.made_up_agents import (
    EMPTY_WORKSPACE,
    WORKSPACE_ID,
    branched_episode,
    shell_episode,
    trained_records,
)
from tests.cluster.viewer.made_up_runs import attacked_episode, mixed_records, resisting_records, write_run
from tests.cluster.viewer.test_viewer import client_of
from workers.records import EpisodeRecord


def open_run(folder: Path, *records: EpisodeRecord) -> tuple[TestClient, str]:
    states = {WORKSPACE_ID: json.dumps(EMPTY_WORKSPACE)}
    client, (key,) = client_of(write_run(folder, list(records), states=states))
    return client, f"/api/runs/{key}"


def test_the_files_that_an_agent_changed_are_shown_as_diffs(tmp_path: Path) -> None:
    client, run = open_run(tmp_path / "run", shell_episode())
    url = f"{run}/episodes/{60:016x}"
    head = client.get(url).json()
    assert head["has_files"] and head["details"]["failures"] and head["connections"][0]["port"] == 443
    found: dict[str, Any] = {file["path"]: file for file in client.get(f"{url}/files").json()}
    assert {path: file["change"] for path, file in found.items()} == {
        "data.bin": "added",
        "double.py": "changed",
        "notes.txt": "added",
    }
    changes = [line for line in found["double.py"]["lines"] if line[0] in "+-"]
    assert changes == [["-", "    return n"], ["+", "    return n + n"]]
    assert found["data.bin"]["lines"] is None and found["data.bin"]["size_after"] == 3_000_000
    assert client.get(f"{url}/files?step=0").json() == client.get(f"{url}/files").json()
    assert client.get(f"{url}/files?step=1").json() == []
    assert client.get(f"{run}/tools").json() == [
        {"name": "write_file", "calls": 1, "episodes": 1, "errors": 1}
    ]


def test_only_a_workspace_has_files() -> None:
    assert has_files(EMPTY_WORKSPACE)
    assert not has_files({"files": {"a": "text"}}) and not has_files([]) and not has_files({"folder": "."})
    long = {"files": {"a": {"kind": "file", "size": 9, "text": "x\n" * 9_000}}}
    (file,) = diff_files(EMPTY_WORKSPACE, long)
    assert len(file["lines"]) == 4_000 and file["left_out"] > 5_000


def test_the_sequences_have_the_loss_mask_and_their_boundaries(tmp_path: Path) -> None:
    client, run = open_run(tmp_path / "run", branched_episode(), shell_episode())
    found = client.get(f"{run}/episodes/{70:016x}/sequences").json()
    main, fork = found["sequences"]
    assert [(one["step"], one["trained"], one["ids"]) for one in main["stretches"]] == [
        (0, False, [1, 2]),
        (0, True, [0, 1]),
        (2, False, [3]),
        (2, True, [20, 21]),
        (3, False, [4]),
        (3, True, [30, 31]),
    ]
    assert [one["version"] for one in main["stretches"]] == [1, 1, 1, 1, 2, 2]
    assert (main["branch"], main["tokens"], main["trained"]) == (0, 10, 6)
    assert [(one["trained"], one["ids"]) for one in fork["stretches"]] == [
        (False, [1, 2, 0, 1, 7]),
        (True, [10, 11]),
    ]
    without = client.get(f"{run}/episodes/{60:016x}/sequences").json()
    assert without["sequences"] == [] and without["missing"] == "the policy gave none"
    outline = client.get(f"{run}/episodes/{70:016x}").json()["outline"]
    assert [(line["branch"], line["parent"]) for line in outline] == [(0, None), (1, 0), (0, 0), (0, 2)]


def test_the_injections_say_where_they_stood_and_how_often_they_succeeded(tmp_path: Path) -> None:
    client, (key,) = client_of(write_run(tmp_path / "run", mixed_records(24)))
    found = client.get(f"/api/runs/{key}/injections").json()
    (row,) = found["rows"]
    assert (row["suite"], row["injection_task"], row["episodes"]) == ("banking", "injection_task_0", 12)
    assert row["success"]["value"] == 1.0 and row["read"] == 1.0 and found["looked_through"] == 12
    assert row["tools"] == [["read_file", 12]]
    assert row["places"]["middle"] == {"episodes": 12, "success": 1.0}
    assert row["places"]["beginning"] == {"episodes": 0, "success": None}


def test_the_calls_of_the_ground_truths_are_beside_those_that_were_made(tmp_path: Path) -> None:
    AGENTDOJO_SUITES.wait()
    client, (key,) = client_of(write_run(tmp_path / "run", [attacked_episode()]))
    head = client.get(f"/api/runs/{key}/episodes/{0:016x}").json()
    own = [(call["name"], call["step"], call["other_step"]) for call in head["own_calls"]]
    assert own == [("read_file", None, 0), ("send_money", None, 1)]
    assert [(call["name"], call["step"]) for call in head["wanted_calls"]] == [("send_money", 1)]


def test_versions_of_one_run_are_compared_task_by_task(tmp_path: Path) -> None:
    client, (key,) = client_of(write_run(tmp_path / "run", trained_records()))
    found = client.get(f"/api/compare/{key}@0/{key}@3").json()
    (pair,) = found["pairs"]
    (right,) = [row for row in pair["metrics"] if row["metric"] == "right"]
    assert pair["pairs"] == 12 and pair["first"].endswith("@0")
    assert (right["first"], right["second"]) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert (right["tasks_up"], right["tasks_down"], right["sign_p"]) == (4, 0, 2 / 2**4)
    assert found["differing"] == 8
    disagreeing = client.get(f"/api/runs/{key}").json()["disagreeing"]
    assert [row["task_id"] for row in disagreeing] == ["sum-2", "sum-3", "sum-4", "sum-5"]
    for version, said in (("7", "was begun by version 7"), ("x", "should be a whole number")):
        answer = client.get(f"/api/compare/{key}@0/{key}@{version}")
        assert answer.status_code == 400 and said in answer.json()["error"]


def test_three_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name, records)
        for name, records in (
            ("one", mixed_records()),
            ("two", resisting_records()),
            ("three", mixed_records(8)),
        )
    ]
    client, keys = client_of(*folders)
    found = client.get(f"/api/compare/{'/'.join(keys)}").json()
    assert [pair["pairs"] for pair in found["pairs"]] == [24, 8]
    assert all(len(row["sides"]) == 3 for row in found["rows"])
    assert any(row["sides"][2] is None for row in found["rows"])
    assert client.get(f"/api/compare/{keys[0]}").status_code == 400


@pytest.mark.slow
def test_a_report_of_two_runs_has_their_comparison(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one", mixed_records(8)), write_run(tmp_path / "two", resisting_records(8))]
    write_report([str(run) for run in runs], tmp_path / "report.html", [])
    text = (tmp_path / "report.html").read_text()
    assert text.count('"compare/one-') == 1 and text.count('"compare/two-') == 1
