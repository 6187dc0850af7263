"""Whether tasks can be told apart: the oracle must be scored above an empty answer in every one of them.

A taskset of verifiers' v1 API checks its own tasks.
"""

import asyncio
from typing import Any, cast

from cluster.cli.debug import as_classic, local_worker_settings, refuse_own_packages
from cluster.config import OraclePolicy, RunConfig
from cluster.plan.plan import Plan, load_plan, row_task_id
from workers.environments.base import RolloutEnvironment, TaskEnvironment
from workers.episode import EpisodePlayer
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeRecord, EpisodeResult, EpisodeSpec, Record
from workers.sandbox.base import Owner
from workers.sandbox.pools import SandboxPools
from workers.settings import SandboxSettings, WorkerSettings

_MAX_IN_FLIGHT = 4


class TaskValidation(Record):
    """The rewards of the oracle and of an empty answer in one task, and what is wrong with the task."""

    task_id: str
    """The task."""
    oracle: float | None
    """The oracle's reward; null where its episode failed, and for a v1 task, which checks itself."""
    empty: float | None
    """The reward of an empty answer, or of an untouched v1 task; null where there is none."""
    is_own_check: bool = False
    """Whether the task has checked itself, as those of v1 tasksets do."""
    complaint: str | None
    """What is wrong with the task; null where nothing is."""


class _EmptyClient(OracleClient):
    """A client that answers at once with an empty message."""

    async def get_response(self, *args: object, **kwargs: object):  # type: ignore[override]
        kwargs["state"]["oracle"] = [{"content": "", "tool_calls": []}]  # type: ignore[index]
        return await super().get_response(*args, **kwargs)  # type: ignore[arg-type]


def validate_tasks(config: RunConfig) -> list[TaskValidation]:
    """Plays the oracle and an empty answer over all tasks that a config selects, in this process.

    Tasks of verifiers' v1 API are asked to check themselves, where their packages are, and scored untouched.

    Args:
        config: The config that selects the tasks. Its policy is not used.

    Raises:
        ConfigError: The environment does not load.
        RunError: The sandbox's image cannot be had.
    """
    config = config.model_copy(update={"policy": OraclePolicy(kind="oracle")})
    loaded, plan = load_plan(config, "validate", shuffled_by=config.name)
    if loaded.api == "v1":
        sandbox = local_worker_settings(config, loaded, lambda line: None, process=False).sandbox
        return _ask_tasks(loaded, plan, sandbox)
    refuse_own_packages(config, "kumite tasks --validate")
    environment = as_classic(config, loaded, "kumite tasks --validate")
    settings = local_worker_settings(config, environment, lambda line: None, process=False)
    specs = [plan.group(row, 1)[0] for row in plan.rows()]
    solved, idle = asyncio.run(_play_oracle_and_empty(settings, environment, specs))
    return [_judge_task(spec, *results) for spec, *results in zip(specs, solved, idle, strict=True)]


def _ask_tasks(environment: TaskEnvironment, plan: Plan, sandbox: SandboxSettings) -> list[TaskValidation]:
    found: list[TaskValidation] = []
    for row in plan.rows():
        untouched, complaint = cast(Any, environment).validate_task(row, sandbox)
        found.append(
            TaskValidation(
                task_id=row_task_id(row),
                oracle=None,
                empty=untouched,
                is_own_check=True,
                complaint=complaint,
            )
        )
    return found


async def _play_oracle_and_empty(
    settings: WorkerSettings, environment: RolloutEnvironment, specs: list[EpisodeSpec]
) -> tuple[list[EpisodeResult], list[EpisodeResult]]:
    pool = None
    if environment.toolset is not None:
        pool = SandboxPools(
            environment.toolset, settings.sandbox, Owner("validate", "validate"), ahead=_MAX_IN_FLIGHT
        )
    players = [
        EpisodePlayer(settings, environment, pool, client, "validate", "here")
        for client in (OracleClient(), _EmptyClient())
    ]
    room = asyncio.Semaphore(_MAX_IN_FLIGHT)

    async def play(player: EpisodePlayer, spec: EpisodeSpec, number: int) -> EpisodeResult:
        async with room:  # a session's name has the attempt in it, and must be the only one of it
            return (await player.play([spec.model_copy(update={"attempt": number})]))[0]

    try:
        plays = [[play(player, spec, n) for spec in specs] for n, player in enumerate(players, 1)]
        solved = await asyncio.gather(*plays[0])
        return solved, await asyncio.gather(*plays[1])
    finally:
        for player in players:
            await player.shut_down()
        await environment.tear_down()


def _judge_task(spec: EpisodeSpec, oracle: EpisodeResult, empty: EpisodeResult) -> TaskValidation:
    complaint = None
    if oracle.status == "failed":
        complaint = f"the oracle's episode failed: {oracle.error_message}"
    elif empty.status == "failed":
        complaint = f"the episode with an empty answer failed: {empty.error_message}"
    elif oracle.reward is not None and empty.reward is not None and oracle.reward <= empty.reward:
        complaint = f"the oracle gets reward {oracle.reward:g}, and an empty answer {empty.reward:g}"
        details = EpisodeRecord.model_validate_json(oracle.record).details
        complaint += f"; the oracle's details: {details:.1000}" if details else ""
    return TaskValidation(task_id=spec.task_id, oracle=oracle.reward, empty=empty.reward, complaint=complaint)
