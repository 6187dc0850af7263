"""Whether tasks can be told apart: the oracle must be scored above an empty answer in every one of them."""

import asyncio

from cluster.cli.debug import settings_of
from cluster.config import OraclePolicy, RunConfig
from cluster.plan.plan import load_plan
from workers.environments.classic.environment import ClassicEnvironment
from workers.episode import EpisodePlayer
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeRecord, EpisodeResult, EpisodeSpec, Record
from workers.sandbox.base import Owner
from workers.sandbox.pool import SandboxPool
from workers.settings import WorkerSettings

_AT_ONCE = 4


class Validated(Record):
    """What became of one task."""

    task_id: str
    """The task."""
    oracle: float | None
    """The oracle's reward; null where its episode failed."""
    empty: float | None
    """The reward of an empty answer; null where its episode failed."""
    complaint: str | None
    """What is wrong with the task; null where nothing is."""


class _EmptyClient(OracleClient):
    """Says nothing, at once."""

    async def get_response(self, *args: object, **kwargs: object):  # type: ignore[override]
        kwargs["state"]["oracle"] = [{"content": "", "tool_calls": []}]  # type: ignore[index]
        return await super().get_response(*args, **kwargs)  # type: ignore[arg-type]


def validate(config: RunConfig) -> list[Validated]:
    """Plays the oracle and an empty answer over all tasks that a config selects, in this process.

    Args:
        config: Whose tasks. Its policy is not used.

    Raises:
        ConfigError: The environment does not load.
        RunError: The sandbox's image cannot be had.
    """
    config = config.model_copy(update={"policy": OraclePolicy(kind="oracle")})
    environment, plan = load_plan(config, "validate", shuffled_by=config.name)
    settings = settings_of(config, environment, lambda line: None, process=False)
    specs = [plan.group(row, 1)[0] for row in plan.rows()]
    solved, idle = asyncio.run(_both(settings, environment, specs))
    return [_judged(spec, *results) for spec, *results in zip(specs, solved, idle, strict=True)]


async def _both(
    settings: WorkerSettings, environment: ClassicEnvironment, specs: list[EpisodeSpec]
) -> tuple[list[EpisodeResult], list[EpisodeResult]]:
    pool = None
    if environment.toolset is not None:
        pool = SandboxPool(
            environment.toolset, settings.sandbox, Owner("validate", "validate"), ahead=_AT_ONCE
        )
    players = [
        EpisodePlayer(settings, environment, pool, client, "validate", "here")
        for client in (OracleClient(), _EmptyClient())
    ]
    room = asyncio.Semaphore(_AT_ONCE)

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


def _judged(spec: EpisodeSpec, oracle: EpisodeResult, empty: EpisodeResult) -> Validated:
    complaint = None
    if oracle.status == "failed":
        complaint = f"the oracle's episode failed: {oracle.error_message}"
    elif empty.status == "failed":
        complaint = f"the episode of an empty answer failed: {empty.error_message}"
    elif oracle.reward is not None and empty.reward is not None and oracle.reward <= empty.reward:
        complaint = f"the oracle's reward is {oracle.reward:g}, and that of an empty answer {empty.reward:g}"
        details = EpisodeRecord.model_validate_json(oracle.record).details
        complaint += f"; the oracle's details: {details:.1000}" if details else ""
    return Validated(task_id=spec.task_id, oracle=oracle.reward, empty=empty.reward, complaint=complaint)
