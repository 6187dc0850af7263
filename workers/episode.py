"""One episode from spec to result: whatever happens in between, it ends as exactly one record."""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from workers import logs
from workers.base_states import BaseStates
from workers.cancellation import cancel_and_wait, is_being_cancelled, run_to_end
from workers.environments.base import Actor, PolicyClient, Rollout, RolloutEnvironment
from workers.environments.tracing import EpisodeTrace
from workers.episode_record import Play, RecordMaker
from workers.errors import (
    EnvironmentExit,
    EpisodeBlocked,
    EpisodeTimeout,
    SandboxError,
    SandboxStartError,
    StaleEpisode,
)
from workers.failures import is_lasting
from workers.handed_on import hide_secrets
from workers.policy.endpoint import sampling_args
from workers.printed import capture_output
from workers.records import (
    EpisodeResult,
    EpisodeSpec,
)
from workers.sandbox.base import Owner, Session
from workers.sandbox.episode_sandboxes import EpisodeSandboxes
from workers.sandbox.pools import SandboxPools, SandboxWish
from workers.sandbox.task_images import image_of
from workers.settings import WorkerSettings

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class EpisodePlayer:
    """Plays episodes in one environment, in sandboxes of its own. Made by `create`, on an event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        environment: RolloutEnvironment,
        pool: SandboxPools | None,
        client: PolicyClient,
        worker_id: str,
        node_id: str,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._pool = pool
        toolset = environment.toolset if pool is not None else None
        self._environment_takes_sandboxes = toolset is not None and toolset.taken_by_environment
        self._client = client
        self._worker_id = worker_id
        self._node_id = node_id
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._cancellable: dict[str, asyncio.Task[Any]] = {}
        self._cancelled: set[str] = set()
        self._told_creations = 0
        self._seating = asyncio.Lock()
        self._version = settings.policy.version
        self._base_states = BaseStates()
        self._records = RecordMaker(settings, environment, worker_id, node_id)

    @classmethod
    async def create(
        cls, settings: WorkerSettings, environment: RolloutEnvironment, worker_id: str, node_id: str
    ) -> "EpisodePlayer":
        """A player on the running event loop.

        Args:
            settings: The worker's.
            environment: What is played.
            worker_id: For the records and the sandboxes' labels.
            node_id: For the records.
        """
        pool: SandboxPools | None = None
        if environment.toolset is not None:
            owner = Owner(settings.run_id, worker_id)
            pool = SandboxPools(environment.toolset, settings.sandbox, owner, ahead=settings.episodes)
        client = environment.open_client(settings.policy, settings.policies)
        return cls(settings, environment, pool, client, worker_id, node_id)

    @property
    def uses_sandbox(self) -> bool:
        """Whether the environment has tools in a sandbox."""
        return self._pool is not None

    def set_version(self, version: int) -> None:
        """Notes the policy's newest version."""
        self._version = version if self._version is None else max(version, self._version)

    async def warm_up(self) -> None:
        """Brings up the sandbox ahead of the first episode.

        Raises:
            SandboxStartError: It does not come up.
        """
        if self._pool is not None:
            await self._tracked(self._pool.prepare())

    async def shut_down(self) -> None:
        """Breaks off what is in flight and ends the sandboxes."""
        await run_to_end(self._end())

    async def _end(self) -> None:
        await cancel_and_wait(self._in_flight)
        if self._pool is not None:
            await self._pool.close()
        await self._client.close()

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Plays one episode, or, where the environment scores groups, all episodes of one.

        Returns:
            A result per episode; none if `cancel` named one of them.
        """
        work = asyncio.ensure_future(self._to_results(specs))
        ids = {spec.episode_id for spec in specs}
        self._cancellable |= dict.fromkeys(ids, work)
        try:
            return await self._tracked(work)
        except BaseException as error:
            self._base_states.forget(ids)  # no result goes with them
            if isinstance(error, asyncio.CancelledError) and self._cancelled & ids:
                return []
            raise
        finally:
            self._cancelled -= ids
            for episode_id in ids:
                if self._cancellable.get(episode_id) is work:
                    del self._cancellable[episode_id]

    def cancel(self, episode_ids: set[str]) -> None:
        """Breaks off the units of these episodes; of those that are not in flight, the result is not used."""
        self._base_states.forget(episode_ids)
        units = {self._cancellable[i] for i in (episode_ids & self._cancellable.keys()) - self._cancelled}
        self._cancelled |= {i for i, unit in self._cancellable.items() if unit in units}
        for unit in units:
            unit.cancel()

    async def _tracked(self, work: Coroutine[Any, Any, _T] | asyncio.Task[_T]) -> _T:
        """Does work that `shut_down` breaks off."""
        task = asyncio.ensure_future(work)
        self._in_flight.add(task)
        try:
            return await task
        finally:
            self._in_flight.discard(task)

    async def _to_results(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        logs.episode.set(specs[0].episode_id)
        plays = [Play(spec, self._trace(spec)) for spec in specs]
        with capture_output(plays[0].printed):  # of a group that is played together, it is the first one's
            try:
                outcomes = await self._outcomes(plays)
                for play in plays:
                    if play.session is not None:
                        play.states = await self._base_states.first_state_of(
                            play.session, play.spec.episode_id
                        )
            finally:
                await run_to_end(self._release(plays))
        outcomes = [
            play.trace.blocked
            or (outcome if isinstance(outcome, BaseException) else self._kept(play, outcome))
            for play, outcome in zip(plays, outcomes, strict=True)
        ]
        return [self._result(play, outcome) for play, outcome in zip(plays, outcomes, strict=True)]

    async def _outcomes(self, plays: list[Play]) -> list[Rollout | BaseException]:
        seconds = plays[0].spec.seconds_left
        limit = asyncio.timeout(seconds)
        late = EpisodeTimeout(f"episode.timeout ran out: {seconds} s were left at dispatch")
        try:
            async with limit:
                await self._seat(plays)
                outcomes = await self._play(plays)
        except BaseException as error:  # where a worker's failure becomes a record
            if isinstance(error, GeneratorExit):
                raise
            if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) and is_being_cancelled():
                raise
            if not isinstance(error, (Exception, EpisodeBlocked)):
                outside = EnvironmentExit.of(error)
                outside.__cause__ = error
                error = outside
            return [late if limit.expired() else error] * len(plays)
        if limit.expired():  # code has caught the cancellation: a grader's, which calls all that fails a 0
            return [late] * len(plays)
        return outcomes

    def _trace(self, spec: EpisodeSpec) -> EpisodeTrace:
        if spec.policy_version is not None:
            self.set_version(spec.policy_version)
        return EpisodeTrace(
            row_is_arrow=not isinstance(spec.row.get("info"), str),
            policy_version=self._version if spec.policy_version is None else spec.policy_version,
            newest_version=(lambda: self._version) if self._settings.policy.moves else None,
        )

    def _kept(self, play: Play, rollout: Rollout) -> Rollout | BaseException:
        """What an episode came to, unless its oldest turn is too far behind."""
        most = self._settings.policy.max_version_lag
        versions = [step.policy_version for step in rollout.steps if step.policy_version is not None]
        if most is None or self._version is None or not versions or self._version - min(versions) <= most:
            return rollout
        play.trace.stage = "policy"
        return StaleEpisode(
            f"a turn was sampled by version {min(versions)}, and the policy is at {self._version}; "
            f"policy.max_version_lag is {most}"
        )

    async def _play(self, plays: list[Play]) -> list[Rollout | BaseException]:
        row = plays[0].spec.row
        if len(plays) == 1 and not self._environment.needs_groups:
            play = plays[0]
            play.trace.seed = self._seed(play.spec)
            actor = self._actor(play.spec, play.trace.seed)
            return [await self._environment.play(row, actor, play.trace, play.session)]
        actor = self._actor(
            plays[0].spec, None
        )  # one request body for the whole group: a seed would make them all the same
        traces, sessions = [play.trace for play in plays], [play.session for play in plays]
        return await self._environment.play_group(row, actor, traces, sessions)

    async def _seat(self, plays: list[Play]) -> None:
        """Gives each play its session. Groups take theirs one after the other, lest each waits for a rest."""
        if len(plays) == 1:
            plays[0].session = await self._acquire(plays[0])
            return
        places = self._pool.places if self._pool is not None else None
        if places is not None and len(plays) > places:
            raise SandboxStartError(
                f"{len(plays)} episodes are scored together, and a sandbox takes {places} at a time; raise "
                "sandbox.max_sessions, or memory_mb and pids, which it is computed from"
            )
        async with self._seating:
            for play in plays:
                play.session = await self._acquire(play)

    async def _acquire(self, play: Play) -> Session | None:
        if self._pool is None:
            return None
        name = f"{play.spec.episode_id}-{play.spec.attempt}"
        if self._environment_takes_sandboxes:
            are_root = self._settings.sandbox.user == "root"
            play.trace.sandboxes = EpisodeSandboxes(self._pool, name, are_root)
            return None
        with play.trace.during("queue"):
            return await self._pool.acquire(name, SandboxWish(image=image_of(play.spec.row)))

    async def _release(self, plays: list[Play]) -> None:
        """Closes the sessions, whatever state they are in."""
        for play in plays:
            if play.trace.sandboxes is not None:
                play.session = next(reversed(play.trace.sandboxes.taken), None)
                await play.trace.sandboxes.release_all()
                continue
            if self._pool is None or play.session is None:
                continue
            began = time.monotonic()
            try:
                await self._pool.release(play.session)
            except SandboxError as error:  # the sandbox took it along, and a score that there is stands
                _log.warning("the session of episode %s could not be closed: %s", play.spec.episode_id, error)
            seconds, stage = play.trace.seconds, play.trace.stage
            if stage == "scoring":
                seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began

    def _actor(self, spec: EpisodeSpec, seed: int | None) -> Actor:
        endpoint = self._settings.policy
        if spec.sampling is not None:
            endpoint = endpoint.model_copy(update={"sampling": spec.sampling})
        return Actor(self._client, endpoint.model, sampling_args(endpoint, seed))

    def _seed(self, spec: EpisodeSpec) -> int | None:
        if self._settings.seed is None:
            return None
        digest = hashlib.blake2s(f"{self._settings.seed}/{spec.episode_id}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) >> 1  # a non-negative int32, which every engine takes

    def _result(self, play: Play, outcome: Rollout | BaseException) -> EpisodeResult:
        spec, trace = play.spec, play.trace
        waited = max(0.0, play.started_at - spec.dispatched_at) if spec.dispatched_at else 0.0
        trace.seconds["queue"] = trace.seconds.get("queue", 0.0) + waited
        timings = trace.timings(total=time.monotonic() - play.began + waited)
        record, text = self._records.make(play, outcome, timings, self._own(play))
        failed = record.error
        if failed:
            self._base_states.forget([spec.episode_id])  # another attempt may take this result's place
        return EpisodeResult(
            episode_id=spec.episode_id,
            status=record.status,
            failure=failed.kind if failed else None,
            reward=record.reward,
            metrics=json.loads(record.metrics),
            error_stage=failed.stage if failed else None,
            error_message=hide_secrets(f"{failed.type}: {failed.message}") if failed else None,
            error_traceback=hide_secrets(failed.traceback) if failed and failed.traceback else None,
            labels=spec.labels,
            usage=record.usage,
            timings=timings,
            record=text,
            printed=hide_secrets(said) if (said := play.printed.text()) else None,
            states=play.states,
            lasting=isinstance(outcome, BaseException) and is_lasting(outcome),
            requests=self._client.watch.use(f"{self._worker_id}/{os.getpid()}"),
            policy_requests=len(trace.turns),
            sandbox_creations=self._new_creations(),
        )

    def _own(self, play: Play) -> Session | None:
        """The episode's session, where its sandbox is its own."""
        if self._pool is None:
            return None
        has_its_own = self._environment_takes_sandboxes or self._pool.gives_each_its_own
        return play.session if has_its_own else None

    def _new_creations(self) -> int:
        """Sandboxes brought up since this was last asked."""
        if self._pool is None:
            return 0
        before, self._told_creations = self._told_creations, self._pool.created
        return self._told_creations - before
