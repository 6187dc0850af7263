"""A worker that plays a taskset's harness in containers, and the policy that it asks."""

from pathlib import Path
from typing import Any, Self

from cluster.plan.apart import EnvironmentApart
from cluster.pool.images import ensure_image, with_image
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeRecord, EpisodeSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

TASKS = Path(__file__).with_name("v1_container_tasks.py")


def bash(command: str) -> Reply:
    """A turn that runs a command."""
    return Reply(content=None, tool_calls=[("bash", {"command": command})])


class Containers:
    """Plays episodes while its `with` lasts.

    Args:
        python: Which Python plays.
        policy: Who is asked.
        harness: Its id.
        sandbox: Keys of `sandbox`.
        tasks: The taskset's file.
        agent: Further keys of `environment.args.agent`.
        args: Keys of `environment.args`; with them, there is no seat `agent` of its own.
        episodes: Containers that are prepared ahead.
        run_id: The run that containers are labelled with.
        endpoint: Further keys of the policy's endpoint.
    """

    def __init__(
        self,
        python: OwnPython,
        policy: MockPolicy,
        harness: str,
        sandbox: dict[str, Any] | None = None,
        tasks: Path = TASKS,
        agent: dict[str, Any] | None = None,
        episodes: int = 1,
        run_id: str = "r",
        args: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
    ) -> None:
        agent = {"max_turns": 6, "harness": {"id": harness}, **(agent or {})}
        environment = EnvironmentSettings(id=str(tasks), args=args or {"agent": agent})
        apart = EnvironmentApart(environment, python)
        rows = apart.rows()
        self.rows = [rows[index] for index in range(len(rows))]
        self.policy = policy
        settings = SandboxSettings.model_validate(sandbox or {})
        assert apart.toolset is not None
        ensure_image(apart.toolset, settings)
        asked = {"kind": "openai", "model": "mock", "request_timeout": 5.0, "token_ids": True}
        asked |= {"base_url": policy.base_url, **(endpoint or {})}
        self.worker = LanedWorker(
            WorkerSettings(
                run_id=run_id,
                environment=environment,
                sandbox=with_image(apart.toolset, settings),
                policy=PolicyEndpoint.model_validate(
                    {**asked, **(endpoint or {}), "base_url": policy.base_url}
                ),
                episodes=episodes,
            ),
            "w",
            python,
        )
        self.worker.ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()

    def play(self, mode: str, *script: Reply | Fault, seconds: float | None = None) -> EpisodeRecord:
        """The record of one episode."""
        [row] = [row for row in self.rows if f'"mode": "{mode}"' in row["task_data"]]
        self.policy.script.extend(script)
        return self.play_row(row, mode, seconds)

    def play_all(self) -> list[EpisodeRecord]:
        """The records of an episode of every task."""
        return [self.play_row(row, str(number)) for number, row in enumerate(self.rows)]

    def play_row(self, row: dict[str, Any], name: str, seconds: float | None = None) -> EpisodeRecord:
        """The record of an episode of one task, under a name."""
        spec = EpisodeSpec(
            episode_id=name.replace(" ", "-"),
            task_id=name,
            group_id="g",
            sample_index=0,
            row=row,
            seconds_left=seconds,
        )
        [result] = self.worker.play([spec])
        return EpisodeRecord.model_validate_json(result.record)
