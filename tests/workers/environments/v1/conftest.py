"""Workers of both verifiers that have a v1 API: the one that Kumite is installed with, and 0.4.0."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import workers
from cluster.errors import ConfigError
from cluster.plan import apart
from cluster.plan.apart import EnvironmentApart
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from tests.helpers.fork_server import end_forks, start_forked
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from workers.lanes import loader
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeRecord, EpisodeSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

HOOKS = Path(__file__).parents[3] / "helpers" / "v1_tasksets.py"


class Hooks:
    """A worker that plays the taskset of all hooks, and the policy that it asks."""

    def __init__(self, python: OwnPython, policy: MockPolicy, kind: str = "openai") -> None:
        environment = EnvironmentSettings(
            id=str(HOOKS), args={"agent": {"max_turns": 3, "sampling": {"temperature": 0.5, "top_p": 0.9}}}
        )
        apart = EnvironmentApart(environment, python)
        rows = apart.rows()
        self.rows = {str(row["example_id"]): row for row in (rows[i] for i in range(len(rows)))}
        self.sampling_args = apart.sampling_args
        self.version = "0.3.1" if python.executable == sys.executable else "0.4.0"
        self.policy = policy
        endpoint: dict[str, Any] = {"kind": kind, "model": "mock", "request_timeout": 5.0, "token_ids": True}
        if kind == "openai":
            endpoint |= {"base_url": policy.base_url, "sampling": {"temperature": 0.25}}
        settings = WorkerSettings(
            run_id="r",
            environment=environment,
            sandbox=SandboxSettings(),
            policy=PolicyEndpoint.model_validate(endpoint),
        )
        self.worker = LanedWorker(settings, "w", python)
        self.worker.ready()

    def play(self, mode: str, *script: Reply | Fault) -> EpisodeRecord:
        """The record of one episode of the task that uses this hook."""
        [row] = [row for row in self.rows.values() if f'"mode": "{mode}"' in row["task_data"]]
        self.policy.script.clear()
        self.policy.script.extend(script)
        self.policy.requests.clear()
        spec = EpisodeSpec(episode_id=mode, task_id=mode, group_id="g", sample_index=0, row=row)
        [result] = self.worker.play([spec])
        return EpisodeRecord.model_validate_json(result.record)


@pytest.fixture(scope="session")
def forks() -> Iterator[None]:
    yield
    end_forks()


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked(forks: None) -> Iterator[None]:
    """Dozens of workers start here, and twice as many processes that have verifiers to import."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (apart, loader):
            patch.setattr(module, "start_process", start_forked)
        yield


@pytest.fixture(scope="module", params=["0.3.1", "0.4.0"])
def python(request: pytest.FixtureRequest) -> OwnPython:
    """One with verifiers of this version."""
    if request.param == "0.3.1":
        return OwnPython(sys.executable, str(Path(workers.__file__).parent.parent))
    try:
        lock = lock_packages(EnvironmentSettings(id="e", requirements=[f"verifiers=={request.param}"]))
    except ConfigError as error:
        pytest.skip(f"no package index can be reached: {error}")
    assert lock is not None
    return ensure_python(lock)


@contextmanager
def played_by(python: OwnPython, kind: str) -> Iterator[Hooks]:
    with MockPolicy() as policy:
        hooks = Hooks(python, policy, kind)
        try:
            yield hooks
        finally:
            hooks.worker.stop()


@pytest.fixture(scope="module")
def hooks(python: OwnPython) -> Iterator[Hooks]:
    with played_by(python, "openai") as hooks:
        yield hooks


@pytest.fixture(scope="module")
def oracle(python: OwnPython) -> Iterator[Hooks]:
    with played_by(python, "oracle") as hooks:
        yield hooks
