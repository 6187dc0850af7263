"""A worker's lanes: the processes that play its episodes, and what is done about one that is stuck.

Why processes. Code of an environment may hold its event loop up: a reward function in plain Python, a regular
expression that never ends, `time.sleep` in `setup_state`, C code that keeps the interpreter's lock. It may
also use signals, which work on a main thread alone, and it may keep state among its episodes. A thread per
episode gives neither signals nor a way past the interpreter's lock; a process per episode would cost every
episode a fork (10 to 20 ms). So all episodes share one process, its main thread and loop, as they do under
verifiers' own runner, for as long as none holds the others up. What happens then:

- A lane whose loop has not turned for a second (or is held up again and again) gets no more episodes; others
  take them, forked within milliseconds from a process that has the environment loaded. For as long as blocks
  are seen, each new episode has a lane to itself, so that code which computes for long holds up nobody.
  (Where episodes have sessions in a sandbox, lanes stay shared: each has a container of its own.)
- After `workers.block_seconds` the blocked episode's neighbours are played again in another lane, which costs
  them no attempt. The lane that is stuck is left to the episode that blocks it.
- When that one's time is up, a signal breaks its code off, which its record names. Where not even
  that helps (C code), the lane is killed, and the record has the lines that it was running.

A worker sees by memory that it shares with its lanes whether their loops turn and whose code they run, so no
message has to pass for it.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any

from workers.lanes.board import SLOTS, Board
from workers.lanes.errors import EpisodeBlocked, LaneDied
from workers.lanes.interpreter import OwnPython
from workers.lanes.lane import Lane, Unit, read_resident_mb, send_signal
from workers.lanes.loader import Loader
from workers.lanes.signals import INTERRUPT, STACKS
from workers.lanes.wire import read_message
from workers.lost_episodes import make_lost_result
from workers.records import EpisodeError, EpisodeResult, EpisodeSpec
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)
_LOOK_EVERY = 0.25
"""Seconds between two looks at the lanes."""
_BLOCKED_AFTER = 1.0
"""Seconds without a turn after which a lane gets no more episodes."""
_RECENT_SECONDS = 20.0
"""Seconds in which what has held a loop up is forgotten, but for a third of it."""
_RECENT_HELD_LIMIT = 3.0
"""Seconds of steps that take long, lately, from which on each new episode gets a lane to itself."""
_ALONE_FOR = 60.0
"""Seconds after a block for which each new episode gets a lane to itself."""
_GRACE = 1.0
"""Seconds beyond an episode's limit that its lane gets to say so."""
_INTERRUPT_GRACE = 4.0
"""Seconds that code gets to end after the signal that breaks it off, before its lane is killed."""
_OVERDUE_AFTER = 25.0
"""Seconds beyond its limit in which an episode is to clean up, and its result to come."""
_STOP_TIMEOUT = 25.0
"""Seconds that a lane gets to end in order: its sandbox, and the environment's teardown."""
_MAX_MOVES = 5
"""Times a unit is moved; one that still finds no lane that turns is lost with the next."""


class Lanes:
    """The lanes of one worker. Its coroutines belong on one event loop, which no environment's code runs on.

    Args:
        settings: The worker's.
        worker_id: For the records and the sandboxes' labels.
        node_id: For the records.
        python: What runs the environment's code. None: this process's Python.

    Raises:
        EnvironmentLoadError: The environment does not load.
    """

    def __init__(
        self, settings: WorkerSettings, worker_id: str, node_id: str, python: OwnPython | None = None
    ) -> None:
        self._settings = settings
        self._worker_id, self._node_id = worker_id, node_id
        self._board = Board.create()
        self._stacks = os.memfd_create("kumite-stacks")
        self._loader = Loader(settings, worker_id, node_id, self._board.file, self._stacks, python)
        self.toolset = self._loader.toolset
        self._loading = asyncio.Lock()
        self._lanes: list[Lane] = []
        self._numbers = itertools.count(1)
        self._free = list(range(SLOTS))[::-1]
        self._blocked_at = -_ALONE_FOR
        self._version: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._units: set[Unit] = set()

    @property
    def pids(self) -> list[int]:
        """Process ids of the lanes."""
        return [lane.pid for lane in self._lanes]

    async def warm_up(self) -> None:
        """Brings up the first lane and its sandbox.

        Raises:
            SandboxStartError: It does not come up.
        """
        self._track_task(self._watch_lanes())
        lane = await self._fork_lane()
        try:
            await lane.request("warm up", next(self._numbers))
        except RuntimeError as error:
            from workers.errors import SandboxStartError  # imports verifiers, which this process does without

            raise SandboxStartError(str(error).removeprefix("SandboxStartError: ")) from error

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Plays a unit; each of its episodes comes to exactly one result, or, if it is cancelled, to none.

        Raises:
            LaneDied: The process that played it died, and as far as can be told, of it.
        """
        unit = Unit(next(self._numbers), specs, asyncio.get_running_loop().create_future())
        self._units.add(unit)
        try:
            await self._give_to_lane(unit)
            return await unit.answer
        finally:
            self._units.discard(unit)

    def cancel(self, episode_ids: set[str]) -> None:
        """Breaks off the units of these episodes, in lanes that are stuck, too."""
        for lane in self._lanes:
            # One that has given their results is told, too: they are not used, nor the base states with them.
            lane.send("cancel", episode_ids)
            mine = [u for u in lane.units.values() if episode_ids & {s.episode_id for s in u.specs}]
            if mine and lane.silent_for() > _BLOCKED_AFTER:
                for unit in mine:
                    del lane.units[unit.number]
                    unit.settle([])
                if not lane.units:
                    lane.kill()

    def set_version(self, version: int) -> None:
        """Tells that the policy has a new version."""
        self._version = version
        for lane in self._lanes:
            lane.send("version", version)

    async def stop(self) -> None:
        """Ends all lanes in order, and those that do not end, by force."""
        self._closing = True
        await asyncio.gather(*(self._end_lane(lane) for lane in list(self._lanes)))
        for task in self._tasks:
            task.cancel()
        for unit in list(self._units):
            unit.settle([])
        await asyncio.to_thread(self._loader.end)

    async def _give_to_lane(self, unit: Unit) -> None:
        lane = self._find_lane(unit) or await self._start_lane(unit)
        unit.given_at = time.monotonic()
        lane.units[unit.number] = unit
        lane.used = True
        lane.send("play", unit.specs, unit.number)

    def _find_lane(self, unit: Unit) -> Lane | None:
        return next((lane for lane in self._lanes if self._can_take(lane, unit)), None)

    async def _start_lane(self, unit: Unit) -> Lane:
        """Starts a lane for a unit. Of those that load the environment themselves, one at a time."""
        if not self._loader.loads_anew:
            return await self._fork_lane()
        async with self._loading:
            if (lane := self._find_lane(unit)) is not None:  # it has come up meanwhile
                return lane
            lane = await self._fork_lane()
            try:
                await lane.request("warm up", next(self._numbers))
            except RuntimeError as error:
                raise LaneDied(f"a process that was to play it did not come up: {error}") from error
            return lane

    def _can_take(self, lane: Lane, unit: Unit) -> bool:
        if lane.condemned or lane.dead or lane.silent_for() > _BLOCKED_AFTER:
            return False
        if self._loader.loads_anew and lane.asked:  # it is not up yet
            return False
        if not lane.units:
            return True
        return not self._gives_lane_per_unit and lane.episodes() + len(unit.specs) <= self._settings.episodes

    @property
    def _gives_lane_per_unit(self) -> bool:
        """Whether each unit gets a lane to itself."""
        return (
            self.toolset is None
            and not self._loader.loads_anew
            and time.monotonic() - self._blocked_at < _ALONE_FOR
        )

    async def _fork_lane(self) -> Lane:
        if not self._free:
            raise LaneDied(f"this worker has {SLOTS} processes that are stuck, and starts no more")
        slot = self._free.pop()
        self._board.clear(slot)
        pid, connection = self._loader.fork_lane(slot)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        lane = Lane(slot, pid, writer)
        self._lanes.append(lane)
        self._track_task(self._read_messages(lane, reader))
        if self._version is not None:
            lane.send("version", self._version)
        return lane

    async def _read_messages(self, lane: Lane, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                what, number, said = await read_message(reader)
                if (asked := lane.asked.pop(number, None)) is not None:
                    if not asked.done():
                        asked.set_result(said) if what == "done" else asked.set_exception(RuntimeError(said))
                elif (unit := lane.units.pop(number, None)) is not None:
                    unit.settle(said if what == "done" else LaneDied(said))
        self._remove_ended_lane(lane)

    def _remove_ended_lane(self, lane: Lane) -> None:
        """Sees to what a lane that has ended leaves behind."""
        lane.dead = True
        self._lanes.remove(lane)
        lane.writer.close()
        running = self._board.running(lane.slot)
        self._free.append(lane.slot)
        for asked in lane.asked.values():
            if not asked.done():
                asked.set_exception(RuntimeError("its process ended"))
        culprit = lane.units.get(running) or (
            next(iter(lane.units.values())) if len(lane.units) == 1 else None
        )
        units, lane.units = list(lane.units.values()), {}
        for unit in units:
            if lane.broken_off_at is not None and unit is culprit:
                unit.settle([self._make_blocked_result(unit, spec, lane) for spec in unit.specs])
            elif culprit is None or unit is culprit:
                unit.settle(LaneDied(f"the process {lane.pid} that played it ended"))
            else:
                self._move_unit(unit)
        if units and not self._closing:
            _log.warning("process %d of this worker ended with %d units in it", lane.pid, len(units))

    def _move_unit(self, unit: Unit) -> None:
        """Has a unit played anew that another one held up; that costs it no attempt."""
        unit.moves += 1
        if unit.answer.done():
            return
        if self._closing or unit.moves > _MAX_MOVES:
            unit.settle(LaneDied(f"the processes that played it were held up by others, {unit.moves} times"))
            return
        self._track_task(self._move_later(unit))

    async def _move_later(self, unit: Unit) -> None:
        try:
            await self._give_to_lane(unit)
        except (LaneDied, OSError) as error:
            unit.settle(LaneDied(str(error)))

    async def _watch_lanes(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for lane in list(self._lanes):
                self._check_lane(lane)

    def _check_lane(self, lane: Lane) -> None:
        self._note_held_time(lane)
        self._give_up_overdue(lane)
        turns = self._board.turns(lane.slot)
        if turns != lane.turns:
            lane.turns, lane.turned_at = turns, time.monotonic()
            lane.broken_off_at = None
            self._retire_lane(lane)
            return
        silent = lane.silent_for()
        if silent < _BLOCKED_AFTER or not lane.units:
            return
        culprit = lane.units.get(self._board.running(lane.slot))
        if culprit is None and len(lane.units) == 1:
            culprit = next(iter(lane.units.values()))
        if culprit is not None:
            self._blocked_at = time.monotonic()
        if silent + lane.held_lately >= self._settings.block_seconds and culprit and len(lane.units) > 1:
            self._move_all_but(lane, culprit)
        limit = culprit.limit() if culprit else self._settings.block_seconds
        began = culprit.given_at if culprit else lane.turned_at
        if limit is not None and time.monotonic() - began > limit + _GRACE:
            self._interrupt_lane(lane)

    def _give_up_overdue(self, lane: Lane) -> None:
        """Gives up units whose code has caught the cancellation at their limit, and goes on.

        They stay in the lane, which ends with the last of its other units: nothing but that ends them.
        """
        now = time.monotonic()
        for unit in list(lane.units.values()):
            limit = unit.limit()
            if limit is None or now - unit.given_at < limit + _OVERDUE_AFTER:
                continue
            del lane.units[unit.number]
            lane.condemned = True
            error = EpisodeBlocked(
                f"its environment's code went on after its limit of {limit:g} s: it catches the cancellation "
                "that ends it (asyncio.CancelledError, as a bare `except:` does) and does not raise it again"
            )
            unit.settle([self._make_given_up_result(spec, error) for spec in unit.specs])

    def _note_held_time(self, lane: Lane) -> None:
        held = self._board.held(lane.slot)
        lane.held_lately = lane.held_lately * (1 - _LOOK_EVERY / _RECENT_SECONDS) + held - lane.held
        lane.held = held
        if lane.held_lately > _RECENT_HELD_LIMIT and len(lane.units) > 1:
            self._blocked_at = time.monotonic()

    def _move_all_but(self, lane: Lane, culprit: Unit) -> None:
        """Moves all but the one that blocks."""
        others = [unit for unit in lane.units.values() if unit is not culprit]
        _log.warning(
            "code of an environment has held a process up for %.0f s: %d others are played anew in another",
            lane.silent_for(),
            len(others),
            extra={"episode": culprit.specs[0].episode_id},
        )
        lane.condemned = True
        lane.units = {culprit.number: culprit}
        lane.send("cancel", {spec.episode_id for unit in others for spec in unit.specs})
        for unit in others:
            self._move_unit(unit)

    def _interrupt_lane(self, lane: Lane) -> None:
        now = time.monotonic()
        if lane.broken_off_at is None:
            lane.broken_off_at = now
            lane.condemned = True
            os.ftruncate(self._stacks, 0)
            send_signal(lane.pid, STACKS)
            send_signal(lane.pid, INTERRUPT)
        elif now - lane.broken_off_at > _INTERRUPT_GRACE:
            lane.stacks = os.pread(self._stacks, 4000, 0).decode(errors="replace")
            _log.warning("process %d of this worker does not answer, and is killed", lane.pid)
            lane.kill()

    def _retire_lane(self, lane: Lane) -> None:
        """Lets a lane end, if it is time, when it has nothing to do; one that is too large gets no more."""
        most = self._settings.memory_mb
        if most is not None and not lane.condemned and lane.used and read_resident_mb(lane.pid) > most:
            _log.info("process %d is above workers.memory_mb, %d, and is replaced", lane.pid, most)
            lane.condemned = True
        spare = len(self._lanes) > 1 and not self._gives_lane_per_unit and lane is not self._lanes[0]
        if not lane.units and not lane.asked and (lane.condemned or spare):
            lane.condemned = True
            self._track_task(self._end_lane(lane))

    async def _end_lane(self, lane: Lane) -> None:
        with contextlib.suppress(TimeoutError, RuntimeError):
            await asyncio.wait_for(
                lane.request("stop", next(self._numbers)),
                _STOP_TIMEOUT if lane.silent_for() < _BLOCKED_AFTER else 1.0,
            )
        lane.kill()

    def _make_blocked_result(self, unit: Unit, spec: EpisodeSpec, lane: Lane) -> EpisodeResult:
        lines = [line.strip() for line in lane.stacks.splitlines() if line.strip().startswith("File")][:8]
        error = EpisodeBlocked(
            f"its environment's code did not give the event loop back within {unit.limit()} s, nor when it "
            "was to be broken off, so that its process was killed"
            + (f"; it was at: {' < '.join(lines)}" if lines else "")
        )
        return self._make_given_up_result(spec, error)

    def _make_given_up_result(self, spec: EpisodeSpec, error: EpisodeBlocked) -> EpisodeResult:
        return make_lost_result(
            spec,
            EpisodeError.of("worker", "environment", error),
            run_id=self._settings.run_id,
            environment=self._settings.environment,
            model=self._settings.policy.model,
            worker_id=self._worker_id,
            node_id=self._node_id,
        )

    def _track_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
