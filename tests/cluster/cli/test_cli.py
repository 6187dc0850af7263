"""What `kumite run` makes of its options before it starts anything."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.dataset.run_folder import Target
from cluster.errors import ConfigError


class Started(Exception):
    """A run would begin now."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configs with which runs would have begun."""
    configs: list[RunConfig] = []

    def run(config: RunConfig, *_: object) -> None:
        configs.append(config)
        raise Started

    monkeypatch.setattr("cluster.run.run", run)
    return configs


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"environment": {"id": "e"}, "policy": {"kind": "oracle"}}))
    folder = tmp_path / "run"
    Target(folder, "run").make(load_config(config))
    (folder / "manifest.json").write_text(json.dumps({"run_id": "run"}))
    return folder


def outcome(*arguments: object) -> BaseException | None:
    return CliRunner().invoke(app, ["run", *map(str, arguments)]).exception


def test_drain_is_how_long_a_run_waits_for_its_episodes(begun: Path, started: list[RunConfig]) -> None:
    assert isinstance(outcome(begun / "config.yaml", "--drain", "90"), Started)
    assert [config.episode.drain_seconds for config in started] == [90.0]
    refused = outcome(begun / "config.yaml", "--drain", "-1")
    assert isinstance(refused, ConfigError)
    assert "--drain: got -1; give a number of seconds, at least 0" in str(refused)


def test_a_run_is_taken_up_again_with_its_own_config_and_what_is_set_anew(
    begun: Path, started: list[RunConfig]
) -> None:
    assert isinstance(outcome("--resume", begun, "--set", "workers.max=64"), Started)
    assert isinstance(outcome("--resume", begun), Started)
    assert [config.workers.max for config in started] == [64, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [("no.such=1", "no: there is no such key"), ("samples=3", "samples: was 1, is 3")],
)
def test_what_is_set_wrongly_for_a_run_that_is_taken_up_again_is_named(
    begun: Path, started: list[RunConfig], change: str, said: str
) -> None:
    refused = outcome("--resume", begun, "--set", change)
    assert isinstance(refused, ConfigError) and said in str(refused)
    assert not started


def test_failed_episodes_are_played_again_only_of_a_run_that_is_taken_up_again(
    begun: Path, started: list[RunConfig]
) -> None:
    refused = outcome(begun / "config.yaml", "--retry-failed")
    assert isinstance(refused, ConfigError) and "--retry-failed needs --resume RUN_DIR" in str(refused)
    assert isinstance(outcome("--resume", begun, "--retry-failed"), Started)


def test_a_run_without_a_config_is_told_what_to_give(started: list[RunConfig]) -> None:
    refused = outcome("--set", "workers.max=64")
    assert isinstance(refused, ConfigError) and "give a config, or --resume" in str(refused)


def test_help_shows_all_that_a_value_of_set_may_be() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert "4, true, null, text, [a, b], {a: 1}" in " ".join(shown.replace("│", " ").split())


TALKATIVE = """
print("imported")
import verifiers as vf
from datasets import Dataset

def load_environment():
    print("loaded")
    rows = Dataset.from_list([{"question": "a", "answer": "b"}])
    return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric())
"""


@pytest.mark.parametrize("options", [[], ["--validate"]])
def test_json_is_all_that_is_printed_where_an_environment_prints_while_it_loads(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"environment": {"id": "talkative.py"}, "policy": {"kind": "oracle"}}))
    answer = CliRunner().invoke(app, ["tasks", str(config), "--json", *options])
    assert json.loads(answer.stdout)
    assert "loaded" in answer.stderr
