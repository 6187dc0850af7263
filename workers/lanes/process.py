"""The processes that run an environment's code: one that has loaded it, and lanes forked from that one.

A worker starts the first, with the descriptors of a socket, through which they talk, of the board, and of a
file for stacks. It loads the environment once and forks a lane whenever it is asked to. A lane runs episodes
on the event loop of its main thread, as verifiers' own runner does, so that signals work in whatever an
environment runs (SIGALRM in a grader), and shares nothing with another lane but memory that neither writes.
"""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NoReturn

from workers import logs
from workers.environments import tracing
from workers.environments.base import RolloutEnvironment
from workers.environments.opening import open_environment
from workers.episode import EpisodePlayer
from workers.errors import EnvironmentLoadError, EpisodeBlocked
from workers.lanes import board
from workers.lanes.board import Board, die_with_parent
from workers.lanes.fresh import find_started_threads, read_given, start_anew
from workers.lanes.generators import reseed_generators
from workers.lanes.signals import INTERRUPT, PID, STACKS
from workers.lanes.wire import pack_message, read_message, read_message_now, send_message_now
from workers.records import EpisodeSpec
from workers.sandbox import ownership
from workers.settings import WorkerSettings

_log = logging.getLogger("workers.lane")
_ARGUMENTS_OF_A_LANE = 6
"""Command-line arguments, the first one included, of a lane that loads the environment itself."""
_MAX_THREADS = 512
"""Most threads for what an environment hands to one: as under verifiers' own runner, so that a few that hang
leave room for others."""
_TURN_INTERVAL = 0.2
"""Seconds between two times that a lane says that its loop turns."""
_TEARDOWN_TIMEOUT = 20.0
"""Seconds that an environment's `@vf.teardown` gets."""


def main() -> NoReturn:
    """Loads the environment and forks lanes from here, until the worker is gone; or is such a lane itself."""
    die_with_parent()
    if len(sys.argv) == _ARGUMENTS_OF_A_LANE:
        _run_fresh_lane()
    control = socket.socket(fileno=int(sys.argv[1]))
    shared, stacks = Board(int(sys.argv[2])), int(sys.argv[3])
    settings, worker_id, node_id = read_message_now(control)
    logs.log_to_stderr(run=settings.run_id, worker=worker_id, node=node_id)
    try:
        environment = open_environment(settings.environment, settings.search_path, settings.policy.model)
    except EnvironmentLoadError as error:
        send_message_now(control, ("failed", str(error)))
        os._exit(1)
    threads = find_started_threads()
    if threads:
        _log.info(
            "the environment has started threads (%s): each process loads it by itself", ", ".join(threads)
        )
    send_message_now(control, ("loaded", (environment.toolset, bool(threads))))
    gc.collect()
    gc.freeze()
    while True:
        try:
            slot: int = read_message_now(control)
        except (EOFError, OSError):
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                control.close()
                if threads:
                    given = (settings, worker_id, node_id)
                    start_anew(theirs.fileno(), shared.file, stacks, slot, given)
                _Lane(shared, slot, stacks).run(theirs, settings, environment, worker_id, node_id)
            except BaseException:
                logging.getLogger("workers.lane").exception("a lane ended by an error")
            finally:
                os._exit(1)
        theirs.close()
        socket.send_fds(control, [PID.pack(pid)], [ours.fileno()])
        ours.close()


def _run_fresh_lane() -> NoReturn:
    """A lane that was not forked from the process that has loaded the environment, but loads it itself."""
    connection, shared, stacks, told, slot = map(int, sys.argv[1:])
    try:
        settings, worker_id, node_id = read_given(told)
        logs.log_to_stderr(run=settings.run_id, worker=worker_id, node=node_id)
        environment = open_environment(settings.environment, settings.search_path, settings.policy.model)
        lane = _Lane(Board(shared), slot, stacks)
        lane.run(socket.socket(fileno=connection), settings, environment, worker_id, node_id)
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends
        _log.exception("a lane ended by an error")
    finally:
        os._exit(1)


class _Lane:
    """A forked process, from its first line to its last."""

    def __init__(self, shared: Board, slot: int, stacks: int) -> None:
        self._board = shared
        self._slot = slot
        self._stacks = stacks
        self._tasks: set[asyncio.Task[None]] = set()

    def run(
        self,
        connection: socket.socket,
        settings: WorkerSettings,
        environment: RolloutEnvironment,
        worker_id: str,
        node_id: str,
    ) -> None:
        """Plays what the worker sends, until it says to stop or is gone."""
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)  # what the environment's code starts goes with it
        reseed_generators()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(INTERRUPT, _interrupt_episode)
        file = os.open(f"/proc/self/fd/{self._stacks}", os.O_WRONLY | os.O_APPEND)
        faulthandler.register(STACKS, file=file, all_threads=False)
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._serve(connection, settings, environment, worker_id, node_id))

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_default_executor(ThreadPoolExecutor(_MAX_THREADS))

        def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            if asyncio.iscoroutine(work):
                work = self._board.mark_steps(self._slot, work)
            return asyncio.Task(work, loop=loop, **options)

        loop.set_task_factory(make)
        return loop

    def _report_turns(self) -> None:
        self._board.turn(self._slot)
        asyncio.get_running_loop().call_later(_TURN_INTERVAL, self._report_turns)

    async def _serve(
        self,
        connection: socket.socket,
        settings: WorkerSettings,
        environment: RolloutEnvironment,
        worker_id: str,
        node_id: str,
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        player = await EpisodePlayer.create(settings, environment, worker_id, node_id)
        self._report_turns()
        while True:
            try:
                what, number, given = await read_message(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                os._exit(0)  # the worker is gone, and nobody waits for anything
            match what:
                case "play":
                    board.current_mark.set(number)  # for the task that is made now, and what it makes
                    self._start_task(self._send_answer(writer, number, _play(player, given)))
                    board.current_mark.set(0)
                case "warm up":
                    self._start_task(self._send_answer(writer, number, _warm_up(player, settings)))
                case "cancel":
                    player.cancel(given)
                case "version":
                    player.set_version(given)
                case _:
                    await player.shut_down()
                    try:
                        await asyncio.wait_for(environment.tear_down(), _TEARDOWN_TIMEOUT)
                    except Exception as error:  # noqa: BLE001 - code of the environment's; we go all the same
                        _log.warning("the environment could not be torn down: %r", error)
                    await _send_message(writer, ("done", number, None))
                    sys.stdout.flush()
                    os._exit(0)  # without verifiers' exit handlers, which would tear down once more

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_answer(
        self, writer: asyncio.StreamWriter, number: int, work: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            answer = ("done", number, await work)
        except BaseException as error:  # noqa: BLE001 - told over there
            answer = ("failed", number, f"{type(error).__name__}: {error}")
        await _send_message(writer, answer)


async def _play(player: EpisodePlayer, specs: list[EpisodeSpec]) -> Any:
    return await player.play(specs)


async def _warm_up(player: EpisodePlayer, settings: WorkerSettings) -> None:
    if not player.uses_sandbox:
        return
    if settings.sandbox.backend == "docker":
        removed = ownership.sweep()
        if removed:
            _log.warning("removed %d containers of dead workers", len(removed))
    await player.warm_up()


async def _send_message(writer: asyncio.StreamWriter, message: Any) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(pack_message(message))
        await writer.drain()


def _interrupt_episode(number: int, frame: FrameType | None) -> None:
    """Runs in the middle of what holds the loop up, and ends the episode that it is of."""
    trace = tracing.current_trace.get()
    traces = [trace] if trace is not None else list(tracing.scored_traces.get())
    if not traces:
        return  # it is nobody's code, or it has just ended
    error = EpisodeBlocked(
        "its environment's code did not give the event loop back until the episode's limit was passed; it "
        f"was broken off in {_describe_place(frame)}"
    )
    for each in traces:
        each.blocked = error
    raise error


def _describe_place(frame: FrameType | None) -> str:
    """Where that was, in code that is no package's, if there is such code among what called it."""
    inner, found = frame, frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith((sys.prefix, sys.base_prefix, "<")):
            found = frame
            break
        frame = frame.f_back
    found = found or inner
    if found is None:
        return "a place that is not known"
    return f"{found.f_code.co_name} ({os.path.basename(found.f_code.co_filename)}, line {found.f_lineno})"
