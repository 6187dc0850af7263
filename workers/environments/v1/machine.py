"""The programs and files of one session, as a v1 runtime uses them: see `sandbox_images/machine`."""

import asyncio
import base64
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from workers.cancellation import cancel_and_wait, run_to_end
from workers.sandbox.base import Session

_LOOK = 20.0
"""Seconds that the session may wait for something to tell; it says it at once."""
_CHUNK = 4 * 1024 * 1024
"""Bytes of a file in one request."""
MOST_OUTPUT = 64 * 1024 * 1024
"""Most bytes of a program's stream that are kept: what follows is read and dropped."""
_KILL_TIMEOUT = 10.0


class MachineError(Exception):
    """The machine can't do what it was asked, in its own words."""


class Description(BaseModel):
    """What a machine says of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workdir: str
    home: str
    programs: dict[str, list[str]]
    """The virtual environments that harnesses' programs run in: for each Python, what it was made for."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    program: int
    out: str
    err: str
    status: int | None


@dataclass(eq=False)
class Program:
    """A program that runs, and what it has printed so far."""

    number: int
    machine: "Machine"
    out: "asyncio.Queue[bytes | None]" = field(default_factory=lambda: asyncio.Queue[bytes | None]())
    err: "asyncio.Queue[bytes | None]" = field(default_factory=lambda: asyncio.Queue[bytes | None]())
    left: dict[str, int] = field(default_factory=lambda: {"out": MOST_OUTPUT, "err": MOST_OUTPUT})
    ended: "asyncio.Future[int]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def write(self, data: bytes) -> None:
        """Writes to its input; nothing: the input ends."""
        await self.machine.call("write_stdin", program=self.number, data=_encoded(data))

    async def signal(self, number: int) -> None:
        """Sends a signal to it, and to all in its group."""
        await self.machine.call("signal", program=self.number, number=number)

    async def collect(self) -> tuple[int, bytes, bytes]:
        """Waits for its end: exit code, output and errors. Cancelled, it kills the program."""
        try:
            status = await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            await run_to_end(self._kill())
            raise
        return status, _drained(self.out), _drained(self.err)

    async def _kill(self) -> None:
        if not self.ended.done():
            async with asyncio.timeout(_KILL_TIMEOUT):
                await self.signal(signal.SIGKILL)

    def take(self, event: _Event) -> None:
        """Takes what the machine tells of it."""
        for name, text in (("out", event.out), ("err", event.err)):
            data = base64.b64decode(text)[: self.left[name]]
            self.left[name] -= len(data)
            if data:
                getattr(self, name).put_nowait(data)
        if event.status is not None:
            self.end(event.status)

    def end(self, status: int) -> None:
        """Notes that it has ended."""
        self.out.put_nowait(None)
        self.err.put_nowait(None)
        if not self.ended.done():
            self.ended.set_result(status)

    def fail(self, error: BaseException) -> None:
        """Notes that nothing more is to be learnt of it."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # nobody may wait for it
        self.out.put_nowait(None)
        self.err.put_nowait(None)


class Machine:
    """A session's programs and files.

    Args:
        session: Opened with `MachineToolset`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._programs: dict[int, Program] = {}
        self._early: dict[int, list[_Event]] = {}
        """What was told of a program before the answer that gave its number."""
        self._watch: asyncio.Task[None] | None = None
        self._starting = 0

    async def describe(self) -> Description:
        """What it says of itself."""
        return Description.model_validate(await self.call("describe"))

    async def call(self, tool: str, timeout: float | None = None, **arguments: Any) -> Any:
        """Has the session do something.

        Raises:
            MachineError: It can't.
            SandboxError: The session is lost.
        """
        result = await self._session.call(tool, arguments, timeout)
        if result.error is not None:
            raise MachineError(result.error)
        return json.loads(result.content)

    async def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool = False,
        log: str | None = None,
        user: str | None = None,
    ) -> Program:
        """Starts a program, which is watched from then on. See `MachineSession`."""
        self._starting += 1
        try:
            asked: dict[str, Any] = {"stdin": stdin, "log": log, "user": user}
            number = int(await self.call("start", argv=list(argv), environment=dict(environment), **asked))
        finally:
            self._starting -= 1
        program = self._programs[number] = Program(number, self)
        for event in self._early.pop(number, []):
            self._take(program, event)
        if not self._starting:
            self._early.clear()  # of programs that nobody has started
        if self._programs and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._watch_programs())
        return program

    async def run(
        self, argv: Sequence[str], environment: Mapping[str, str], user: str | None = None
    ) -> tuple[int, bytes, bytes]:
        """Runs a program to its end: exit code, output and errors. Cancelled, it kills the program."""
        started = asyncio.ensure_future(self.start(argv, environment, user=user))
        try:
            program = await asyncio.shield(started)
        except asyncio.CancelledError:
            await run_to_end(_kill_when_started(started))
            raise
        return await program.collect()

    async def read(self, path: str, most: int | None = None) -> bytes:
        """A file's bytes: all, or the first ones."""
        data = bytearray()
        while most is None or len(data) < most:
            size = _CHUNK if most is None else min(_CHUNK, most - len(data))
            told = await self.call("read", path=path, offset=len(data), size=size)
            data += base64.b64decode(told["data"])
            if told["ended"]:
                break
        return bytes(data)

    async def write(self, path: str, data: bytes) -> None:
        """Writes a file, whose folders are made."""
        for offset in range(0, max(1, len(data)), _CHUNK):
            piece = _encoded(data[offset : offset + _CHUNK])
            await self.call("write", path=path, data=piece, append=offset > 0)

    async def close(self) -> None:
        """Stops watching."""
        if self._watch is not None:
            await cancel_and_wait([self._watch])

    async def _watch_programs(self) -> None:
        try:
            while self._programs:
                seconds = 0.0 if self._starting else _LOOK
                for told in await self.call("events", timeout=_LOOK * 2, seconds=seconds):
                    event = _Event.model_validate(told)
                    program = self._programs.get(event.program)
                    if program is not None:
                        self._take(program, event)
                    elif self._starting:
                        self._early.setdefault(event.program, []).append(event)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits for a program is told
            for program in self._programs.values():
                program.fail(error)
            self._programs.clear()

    def _take(self, program: Program, event: _Event) -> None:
        program.take(event)
        if event.status is not None:
            self._programs.pop(program.number, None)


async def _kill_when_started(started: "asyncio.Future[Program]") -> None:
    program = await started
    await program.signal(signal.SIGKILL)


def _drained(queue: "asyncio.Queue[bytes | None]") -> bytes:
    pieces: list[bytes] = []
    while not queue.empty():
        pieces.append(queue.get_nowait() or b"")
    return b"".join(pieces)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
