"""A run's figures sent to Weights & Biases, MLflow and TensorBoard."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.observe.meter import Meter
from cluster.observe.trackers import Trackers
from tests.cluster.observe.test_observe import POOL, play


def config_of(**observe: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "environment": {"id": "shell"},
            "policy": {"kind": "endpoint", "model": "m", "base_url": "http://secret-host/v1"},
            "observe": observe,
        }
    )


async def observe_run(trackers: Trackers, folder: Path) -> None:
    with trackers:
        meter = Meter(folder, None, lambda: POOL, 20, tell=trackers.send)
        async with meter.writing(every=3600):
            play(trackers)
            play(meter)


def read_only_file(folder: Path, pattern: str) -> bytes:
    (file,) = folder.glob(pattern)
    return file.read_bytes()


async def read_file_with(folder: Path, pattern: str, text: bytes) -> bytes:
    """The one file of a pattern, once it has a text: a service's own process may still be writing it."""
    async with asyncio.timeout(60):
        while True:
            held = read_only_file(folder, pattern)
            if text in held:
                return held
            await asyncio.sleep(0.1)


class Recorder:
    def __init__(self) -> None:
        self.lines: list[tuple[Mapping[str, float], int]] = []
        self.closed = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.lines.append((values, step))

    def close(self) -> None:
        self.closed = True


class Broken(Recorder):
    def log(self, values: Mapping[str, float], step: int) -> None:
        raise OSError("away")

    def close(self) -> None:
        raise OSError("away")


async def test_each_line_is_sent_with_the_means_of_metrics_and_a_broken_tracker_harms_none(
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    await observe_run(Trackers([Broken(), recorder]), tmp_path)
    assert recorder.closed and recorder.lines
    values, step = recorder.lines[-1]
    assert step > 0 and values["finished"] + values["failed"] == step
    assert values["planned"] == 20 and "reward" in values and "time" not in values
    assert any(name.startswith("stage_seconds/") for name in values)


def test_nothing_is_sent_unless_the_config_says_so() -> None:
    assert Trackers.of(config_of(), "run-1") is None
    with pytest.raises(ValidationError, match="projekt"):
        config_of(wandb={"projekt": "x"})


@pytest.mark.parametrize(
    ("key", "setting", "package"),
    [("wandb", {}, "wandb"), ("mlflow", {}, "mlflow"), ("tensorboard", "tb", "tensorboardX")],
)
def test_a_package_that_is_lacking_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, key: str, setting: object, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"observe\.{key} needs {package}, .* pip install -e '\.\[{key}\]'"
    ):
        Trackers.of(config_of(**{key: setting}), "run-1")


async def test_mlflow_has_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow: Any = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = (tmp_path / "mlruns").as_uri()
    trackers = Trackers.of(config_of(mlflow={"experiment": "mine", "tracking_uri": uri}), "run-1")
    assert trackers is not None
    await observe_run(trackers, tmp_path)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run-1" and run.info.status == "FINISHED"
    assert run.data.metrics["finished"] > 0 and run.data.params["model"] == "m"
    assert "secret-host" not in str(run.data.params)


async def test_wandb_has_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trackers = Trackers.of(config_of(wandb={"project": "mine"}), "run-1")
    assert trackers is not None
    await observe_run(trackers, tmp_path)
    held = await read_file_with(tmp_path, "**/run-*.wandb", b"tokens_per_second")
    assert b"secret-host" not in held


async def test_tensorboard_has_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    trackers = Trackers.of(config_of(tensorboard=str(tmp_path / "tb")), "run-1")
    assert trackers is not None
    await observe_run(trackers, tmp_path)
    assert await read_file_with(tmp_path, "tb/run-1/events.*", b"stage_seconds/policy/mean")
