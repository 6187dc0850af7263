"""Kumite's agents under the clock: whole episodes of a program, by a worker in this process."""

import gc
import json
import os
import time
import uuid
from typing import Any

from workers.records import EpisodeRecord, EpisodeSpec
from workers.rollout_worker import RolloutWorker
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

TASK = "find-effective-port"
"""Whose hidden test is one comparison: the peer grades nothing."""


class KumiteAgents:
    """A worker that plays a program.

    Args:
        image: With Python and Kumite's tool host.
        command: The program.
        url: The policy's.
        at_once: Episodes at a time.
        sandbox: More of the sandbox's settings.
    """

    def __init__(
        self, image: str, command: list[str], url: str, at_once: int, sandbox: dict[str, Any] | None = None
    ) -> None:
        limits = {"turns": 10_000, "seconds": 400.0}
        settings = WorkerSettings(
            run_id=f"benchmark-{uuid.uuid4().hex[:8]}",
            environment=EnvironmentSettings(
                id="shell", args={"tasks": [TASK], "agent": {"command": command, "limits": limits}}
            ),
            sandbox=SandboxSettings(image=image, **(sandbox or {})),
            policy=PolicyEndpoint(kind="openai", model="mock", base_url=url),
            episodes=at_once,
        )
        self._worker = RolloutWorker(settings, f"benchmark-{uuid.uuid4().hex[:8]}")
        self._rows: Any = self._worker._environment.rows()  # type: ignore[attr-defined]
        self._worker.ready()
        # As a worker's own process does: or every collection would go through all that was imported here.
        gc.collect()
        gc.freeze()

    def play(self, episodes: int) -> dict[str, Any]:
        """Plays so many episodes: their seconds, this process's CPU seconds, and the records.

        Raises:
            RuntimeError: One of them failed.
        """
        from concurrent.futures import ThreadPoolExecutor

        specs = [self._spec() for _ in range(episodes)]
        began, cpu = time.perf_counter(), _cpu()
        with ThreadPoolExecutor(episodes) as threads:
            played = threads.map(self._worker.play, [[spec] for spec in specs])
            results = [result for made in played for result in made]
        seconds, spent = time.perf_counter() - began, _cpu() - cpu
        failed = [result.error_message for result in results if result.status != "finished"]
        if failed:
            raise RuntimeError(f"{len(failed)} episodes failed, the first with: {failed[0]}")
        records = [EpisodeRecord.model_validate_json(result.record) for result in results]
        return {
            "seconds": seconds,
            "cpu": spent,
            "calls": sum(len(each.steps) for each in records),
            "records": records,
        }

    def stop(self) -> None:
        """Ends the worker."""
        self._worker.stop()

    def _spec(self) -> EpisodeSpec:
        return EpisodeSpec(
            episode_id=uuid.uuid4().hex[:16],
            task_id=TASK,
            group_id="benchmark",
            sample_index=0,
            row=dict(self._rows[0]),
            attempt=1,
        )


def printed(record: EpisodeRecord) -> Any:
    """What the program has printed, as JSON."""
    return json.loads(json.loads(record.details or "{}")["agent"]["output"])


def _cpu() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
