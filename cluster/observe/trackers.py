"""A run's figures sent to Weights & Biases, MLflow or TensorBoard, for those who have one."""

import importlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.observe.meter import MetricsLine
from cluster.observe.tally import Mean
from workers.records import EpisodeResult, EpisodeSpec

_log = logging.getLogger(__name__)
_LEFT_OUT = ("time", "process", "failed")
"""Fields of a line of metrics that are no figures."""


class Tracker(Protocol):
    """One place that figures are sent to."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Sends figures, as they were after so many episodes."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


class WandbTracker:
    """Sends to Weights & Biases: a run of Kumite is a run there, of the same name.

    Raises:
        ConfigError: The package is not installed, or the service does not let the run begin.
    """

    def __init__(self, config: RunConfig, run_id: str) -> None:
        wandb = _import_package("wandb", "observe.wandb")
        settings = config.observe.wandb
        assert settings is not None
        with _explaining_refusal("observe.wandb"):
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                name=run_id,
                config=_describe_run(config),
                reinit="create_new",
                settings=wandb.Settings(console="off", quiet=True),
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MlflowTracker:
    """Sends to MLflow: a run of Kumite is a run there, of the same name.

    Raises:
        ConfigError: The package is not installed, or the server does not let the run begin.
    """

    def __init__(self, config: RunConfig, run_id: str) -> None:
        mlflow = _import_package("mlflow", "observe.mlflow")
        settings = config.observe.mlflow
        assert settings is not None
        with _explaining_refusal("observe.mlflow"):
            self._client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
            found = self._client.get_experiment_by_name(settings.experiment)
            experiment = (
                self._client.create_experiment(settings.experiment) if found is None else found.experiment_id
            )
            self._run: str = self._client.create_run(experiment, run_name=run_id).info.run_id
            for name, value in _describe_run(config).items():
                self._client.log_param(self._run, name, str(value)[:500])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run)


class TensorBoardTracker:
    """Writes event files that TensorBoard reads.

    Raises:
        ConfigError: The package is not installed, or the folder cannot be written.
    """

    def __init__(self, config: RunConfig, run_id: str) -> None:
        tensorboard = _import_package("tensorboardX", "observe.tensorboard")
        folder = config.observe.tensorboard
        assert folder is not None
        with _explaining_refusal("observe.tensorboard"):
            self._writer = tensorboard.SummaryWriter(str(Path(folder) / run_id))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class Trackers:
    """Sends each line of `metrics.jsonl`, and the means of reward and metrics so far, to all trackers.

    It is sent from a thread of its own, in order. A tracker that fails costs its figures, and no episode.

    Args:
        trackers: Those who are sent the figures.
    """

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers
        self._means: defaultdict[str, Mean] = defaultdict(Mean)
        self._ended = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trackers")

    @classmethod
    def of(cls, config: RunConfig, run_id: str) -> "Trackers | None":
        """Those that a config names; None where it names none.

        Raises:
            ConfigError: One cannot be used.
        """
        wanted: list[tuple[object, Callable[[RunConfig, str], Tracker]]] = [
            (config.observe.wandb, WandbTracker),
            (config.observe.mlflow, MlflowTracker),
            (config.observe.tensorboard, TensorBoardTracker),
        ]
        made = [make(config, run_id) for setting, make in wanted if setting is not None]
        return cls(made) if made else None

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""

    def retried(self, episodes: int) -> None:
        """See `Observer`."""

    def cancelled(self, episodes: int) -> None:
        """See `Observer`."""

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """See `Observer`."""
        self._ended += 1
        if result.status == "finished":
            for name, value in result.metrics.items():
                self._means[f"metrics/{name}"].add(value)

    def send(self, line: MetricsLine) -> None:
        """Sends a line of metrics, as it is now."""
        values = dict(_flatten("", line.model_dump(exclude=set(_LEFT_OUT))))
        values["failed"] = float(sum(line.failed.values()))
        values |= {name: mean.value for name, mean in self._means.items() if mean.value is not None}
        step = self._ended
        for tracker in self._trackers:
            self._thread.submit(self._send_to, tracker, values, step)

    def _send_to(self, tracker: Tracker, values: Mapping[str, float], step: int) -> None:
        try:
            tracker.log(values, step)
        except Exception as error:  # noqa: BLE001 - whatever a service has, the run goes on
            _log.warning("%s did not take the figures: %s", type(tracker).__name__, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as failure:  # noqa: BLE001 - the run has its own files
                _log.warning("%s did not end well: %s", type(tracker).__name__, failure)


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a line, those of its parts as `part/figure`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{name}/", cast(dict[str, Any], value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def _describe_run(config: RunConfig) -> dict[str, Any]:
    """What is told of a config: what is played by whom, and no address."""
    policy = config.policy.model_dump(mode="json")
    return {
        "environment": config.environment.id,
        "environment_args": config.environment.args,
        "policy": policy["kind"],
        "model": policy.get("model"),
        "sampling": policy.get("sampling"),
        "samples": config.samples,
        "limit": config.limit,
        "seed": config.seed,
    }


def _import_package(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = key.removeprefix("observe.")
        raise ConfigError(
            f"{key} needs {name}, which is not installed: pip install -e '.[{extra}]', in Kumite's folder"
        ) from error


@contextmanager
def _explaining_refusal(key: str) -> Generator[None]:
    """Names the key in the error of a service that does not let the run begin.

    Raises:
        ConfigError: It does not.
    """
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{key}: {type(error).__name__}: {error}") from error
