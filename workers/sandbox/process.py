"""The `process` backend: the same tool host as a plain child process. No isolation: for debugging only."""

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from workers.cancellation import cancel_and_wait, run_to_end
from workers.errors import EndCause, SandboxStartError
from workers.sandbox.base import FIXED_VARIABLES, Hello, Sandbox
from workers.sandbox.connection import GRACE, Connection

_log = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]
_TOOL_HOST = [sys.executable, "-m", "sandbox_images.tool_host"]
_LAST_WORDS = 1.0
"""Seconds to read on in stderr when the process has ended; a daemon may hold it open for ever."""


class ProcessSandbox(Sandbox):
    """A tool host without a container around it."""

    _process: Process | None = None
    _scratch: str | None = None

    async def start(self) -> Hello:
        """Starts it, and refuses a toolset that would run the model's code on the bare machine."""
        _log.warning("sandbox.backend is `process`: tools run on this machine with no isolation at all")
        hello = await super().start()
        if hello.runs_model_code and not self.settings.unsafe:
            await run_to_end(self.stop())
            raise SandboxStartError(
                "this toolset runs code that the model writes; with sandbox.backend `process` it would run "
                "on this machine. Use `docker`, or set sandbox.unsafe to insist"
            )
        return hello

    async def _launch(self) -> Connection:
        self._scratch = tempfile.mkdtemp(prefix="kumite-")  # here: a thread's may be made for nobody
        options = {**self._options(), "quiet": False, "scratch": self._scratch, "temporary": True}
        self._process = process = await asyncio.create_subprocess_exec(
            *_TOOL_HOST,
            self.spec.toolset,
            json.dumps(options),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={
                **os.environ,
                **FIXED_VARIABLES,
                "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
            },
            start_new_session=True,
        )
        assert process.stdin
        self.id = f"process-{process.pid}"
        connection = Connection(process.stdin.write, self._hang_up)
        self._pump = asyncio.create_task(self._pump_stdout(process, connection))
        return connection

    def _hang_up(self) -> None:
        self.died.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _pump_stdout(self, process: Process, connection: Connection) -> None:
        assert process.stdout
        stderr = asyncio.create_task(self._pump_stderr(process, connection))
        try:
            while data := await process.stdout.read(1 << 16):
                connection.feed(data)
            await asyncio.wait([stderr], timeout=_LAST_WORDS)
            connection.break_off("its process ended")
        finally:
            await cancel_and_wait([stderr])

    async def _pump_stderr(self, process: Process, connection: Connection) -> None:
        assert process.stderr
        while data := await process.stderr.read(1 << 16):
            connection.feed_stderr(data)

    def _find_port(self, is_taken: Callable[[int], bool]) -> int:
        """A port of this machine that is free just now."""
        while True:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port: int = free.getsockname()[1]
            if not is_taken(port):
                return port

    async def find_cause_of_death(self) -> EndCause:
        """Its exit code tells: by a signal or with 0, it was ended from outside."""
        if self._process is None:
            return "engine"
        if self._process.returncode is None:
            return "time"
        return "tool_host" if self._process.returncode > 0 else "engine"

    async def stop(self) -> None:
        """Closes the pipe, on which the tool host kills its sessions and exits; kills it if it does not."""
        self.give_up("it was stopped")
        await run_to_end(self._remove())

    async def _remove(self) -> None:
        if self._process is not None:
            await self._end(self._process)
        if self._scratch is not None:  # the tool host has removed it, unless it was killed
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _end(self, process: Process) -> None:
        ended, _ = await asyncio.wait([self._pump], timeout=GRACE if self.is_up else 0)
        if not ended:
            with suppress(ProcessLookupError):
                process.kill()
        # asyncio takes a process for ended when its pipes are closed, and a daemon may hold one of them.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await process.wait()
        await cancel_and_wait([self._pump])
