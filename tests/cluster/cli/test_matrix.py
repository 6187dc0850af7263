"""One config that asks for several runs."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.cli.matrix import load_cells
from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.errors import ConfigError

FIELDS: dict[str, Any] = {
    "name": "grid",
    "environment": {"id": "agentdojo", "args": {"suites": ["banking"], "mode": "attack"}},
    "policy": {"kind": "oracle"},
    "matrix": {
        "environment.args.attack": ["direct", "ignore_previous"],
        "environment.args.defense": [None, "tool_filter"],
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(FIELDS))
    return file


def test_a_matrix_is_one_run_for_each_combination(path: Path) -> None:
    cells = load_cells(path)
    assert [cell.name for cell in cells] == [
        "attack=direct,defense=none",
        "attack=direct,defense=tool_filter",
        "attack=ignore_previous,defense=none",
        "attack=ignore_previous,defense=tool_filter",
    ]
    assert "defense" not in cells[0].config.environment.args
    assert cells[3].config.environment.args["attack"] == "ignore_previous"


def test_values_that_a_config_cannot_hold_are_refused_as_without_a_matrix(path: Path) -> None:
    args = {"since": datetime.date(2026, 1, 2), "names": {1: "one"}}
    matrix = {"environment.args.size": [1, 2]}
    path.write_text(yaml.safe_dump({**FIELDS, "environment": {"id": "mine", "args": args}, "matrix": matrix}))
    with pytest.raises(ConfigError) as raised:
        load_cells(path)
    assert "environment.args.since" in str(raised.value) and "environment.args.names" in str(raised.value)


def test_sections_that_share_an_alias_are_each_their_own(path: Path) -> None:
    """YAML gives one object for an anchor and its aliases; a value that is set in one is not the other's."""
    tail = "policy: {kind: oracle}\nmatrix: {environment.args.one.size: [1, 2]}\n"
    path.write_text(f"environment: {{id: mine, args: {{one: &shared {{size: 0}}, other: *shared}}}}\n{tail}")
    sizes = [cell.config.environment.args for cell in load_cells(path)]
    assert sizes == [{"one": {"size": n}, "other": {"size": 0}} for n in (1, 2)]


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        ([1], "matrix: got [1]; give a mapping"),
        ({"samples": 3}, "matrix.samples: got 3; give a list"),
        ({"samples": []}, "matrix.samples: got []; give a list"),
        ({"sample": [1]}, "sample: there is no such key; did you mean samples?"),
        ({"samples": [1, 1]}, "two runs would have the name 'samples=1'"),
        ({"name.x": [1]}, "matrix.name.x: name is not a section"),
    ],
)
def test_a_matrix_that_cannot_be_is_named(path: Path, matrix: Any, says: str) -> None:
    path.write_text(yaml.safe_dump({**FIELDS, "matrix": matrix}))
    with pytest.raises(ConfigError) as raised:
        load_cells(path)
    assert says in str(raised.value)


def test_other_commands_say_that_they_take_one_run(path: Path) -> None:
    with pytest.raises(ConfigError, match="`matrix`, which only `kumite run` and `kumite tasks` accept"):
        load_config(path)


@pytest.mark.slow
def test_tasks_counts_each_run(path: Path) -> None:
    text = CliRunner().invoke(app, ["tasks", str(path), "--set", "limit=5"]).output
    assert "attack=direct,defense=tool_filter" in text
    assert "20 episodes in 4 runs" in text


def test_a_matrix_is_played_run_by_run_and_taken_up_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[str, bool]] = []

    def run(config: RunConfig, target: Any, console: Any, shared: Any) -> Any:
        played.append((target.folder.name, target.is_new))
        if len(played) == 2:
            raise ConfigError("broken off")
        target.make(config)
        (target.folder / "manifest.json").write_text('{"run_id": "x"}')
        return SimpleNamespace(finished=1, failed=0, reward=1.0, metrics={"utility": 1.0})

    monkeypatch.setattr("cluster.run.run", run)
    folder = tmp_path / "out"
    assert CliRunner().invoke(app, ["run", str(path), "--out", str(folder)]).exception is not None
    again = CliRunner().invoke(app, ["run", "--resume", str(folder)])
    assert again.exception is None, again.exception
    assert [is_new for _, is_new in played[2:]] == [False, True, True, True]
    assert again.output.count("1.000") == 8
    refused = CliRunner().invoke(app, ["run", str(path), "--out", str(folder)]).exception
    assert isinstance(refused, ConfigError) and f"--resume {folder}" in str(refused)
