"""A run that is put on a hub: a server on this machine that speaks its API."""

import shutil
from collections.abc import Generator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from datasets import load_dataset
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.errors import ConfigError, RunError
from cluster.export.push import push_run
from tests.cluster.export.exported_runs import write_exported_run
from tests.cluster.synthetic import episode, write_segment
from tests.helpers.hub_server import Hub, serving_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with serving_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield served


def test_a_run_becomes_a_dataset_that_loads_as_its_card_says(hub: Hub, tmp_path: Path) -> None:
    run = write_exported_run(tmp_path / "run")
    hub.files = {"episodes/of-another-run.parquet": b"x", "kept.txt": b"y"}
    arguments = ["push", str(run), "me/rollouts", "--private", "--license", "cc-by-4.0"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.exception
    assert f"{hub.url}/datasets/me/rollouts\n" in found.output
    (made,) = hub.created
    assert (made["type"], made["name"], made["organization"]) == ("dataset", "rollouts", "me")
    assert made.get("visibility", "private" if made.get("private") else None) == "private"
    assert hub.commits == ["Run run-1"]
    assert "episodes/of-another-run.parquet" not in hub.files and "kept.txt" in hub.files
    shard = next((run / "episodes").iterdir())
    assert hub.files[f"episodes/{shard.name}"] == shard.read_bytes()

    card = hub.files["README.md"].decode()
    fields = yaml.safe_load(card.split("---")[1])
    assert fields["license"] == "cc-by-4.0" and fields["size_categories"] == ["n<1K"]
    assert [each["config_name"] for each in fields["configs"]] == ["episodes", "steps", "states"]
    assert "| `reward` | 0.625 |" in card and "1 episodes failed: 1 in stage setup." in card
    assert "| `model` | Name of the model, or `oracle`. |" in card and "`{'level': 2}`" in card
    for name in ("plots/reward.svg", "plots/means.svg"):
        assert ElementTree.fromstring(hub.files[name]).tag.endswith("svg") and f"]({name})" in card

    copy = tmp_path / "downloaded"
    for name, data in hub.files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    cache = str(tmp_path / "cache")
    rows = {
        name: len(load_dataset(str(copy), name, split="train", cache_dir=cache))
        for name in ("episodes", "steps", "states")
    }
    assert rows == {"episodes": 5, "steps": 9, "states": 1}


@pytest.mark.parametrize(("status", "says"), [(401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (404, "refuses")])
def test_a_hub_that_refuses_is_an_error_with_what_mends_it(
    hub: Hub, tmp_path: Path, status: int, says: str
) -> None:
    hub.refuse = status
    with pytest.raises(RunError, match=says):
        push_run(write_exported_run(tmp_path / "run"), "me/rollouts")


def test_what_cannot_be_pushed_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_exported_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="REPO: got 'a/b/c'; give OWNER/NAME"):
        push_run(run, "a/b/c")
    write_segment(run / "journal" / "000009.jsonl", [episode(9)])
    with pytest.raises(ConfigError, match="are in its journal only"):
        push_run(run, "me/rollouts")
    shutil.rmtree(run / "journal")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="cannot be reached"):
        push_run(run, "me/rollouts")
