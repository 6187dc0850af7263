"""v1's runtime over a sandbox of ours: a container without a network, whose programs are the harness's."""

import asyncio
import hashlib
import re
import signal
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar, cast

from verifiers.v1.errors import SandboxError
from verifiers.v1.runtimes import ProgramResult, Runtime
from verifiers.v1.runtimes.base import RuntimeProcess
from verifiers.v1.runtimes.docker import DockerRuntimeInfo

from workers import errors
from workers.environments.v1.machine import Description, Machine, MachineError, Program
from workers.environments.v1.play import Play
from workers.environments.v1.sandboxes import wish_of, workdir_of
from workers.sandbox.base import Session

_Runtime: Any = Runtime
_Process: Any = RuntimeProcess
_SandboxError: Any = SandboxError
_T = TypeVar("_T")
_DEPENDENCIES = re.compile(r"^# dependencies = \[(.*)\]$", re.MULTILINE)
_NAMES = re.compile(r'"([^"]*)"')


class ContainerRuntime(_Runtime):
    """A container of the worker's pool, which `start` or the first use takes, and `stop` gives back.

    Model calls of its programs reach verifiers' own interception by the container's loopback, over the pipe;
    `sandbox.allow` names what else they may reach, and the network policies of the task and the seat take
    from it while the agent works.

    Args:
        config: verifiers' config of a container: image, workdir, resources, network policy.
        play: The episode.
        name: verifiers' name of it.
        is_lazy: Whether the container is taken when something is first done in it, since only hooks may do
            something there.
    """

    def __init__(self, config: Any, play: Play, name: str | None = None, *, is_lazy: bool = False) -> None:
        super().__init__(name)
        self._is_lazy = is_lazy
        self.config = config
        self.info = DockerRuntimeInfo(**config.model_dump())
        self._play = play
        self._session: Session | None = None
        self._machine: Machine | None = None
        self._description: Description | None = None
        self.background: Program | None = None
        """The program that was started last to run until `stop`."""
        self.server_python: str | None = None
        """The Python that was made here for the server of a toolset."""
        self._taking = asyncio.Lock()

    @property
    def supports_user(self) -> bool:
        """Whether programs can be other users', for which the session must be root."""
        return self._play.sandboxes is not None and self._play.sandboxes.sessions_are_root

    @property
    def scripts_dir(self) -> str:
        """Where programs of harnesses are written."""
        home = getattr(self, "home", None) or (self._description and self._description.home) or "/tmp"
        return f"{home}/.vf-scripts"

    async def start(self) -> None:
        """Takes the container, unless it is lazy."""
        if not self._is_lazy:
            await self._ready()

    async def alive(self) -> bool:
        """Whether it executes anything."""
        return self._session is None or (self._session.failure is None and self._session.sandbox.alive)

    def cleanup(self) -> None:
        """There is nothing that must go at once: the container goes with this process."""

    async def teardown(self) -> None:
        """Gives the container back, which ends it."""
        machine, self._machine = self._machine, None
        session, self._session = self._session, None
        if machine is not None:
            await machine.close()
        if session is not None:
            assert self._play.sandboxes is not None
            await self._play.sandboxes.release(session)

    async def run(self, argv: list[str], env: dict[str, str]) -> Any:
        """Runs a program to its end."""
        machine = await self._ready()
        status, out, err = await self.see(machine.run(argv, self.process_env(env), self._user))
        return ProgramResult(status, out.decode(errors="replace"), err.decode(errors="replace"))

    async def open_process(self, argv: list[str], env: dict[str, str]) -> Any:
        """Starts a program that is written to and read from."""
        machine = await self._ready()
        program = await self.see(machine.start(argv, self.process_env(env), stdin=True, user=self._user))
        return _LiveProcess(program, self)

    async def run_background(self, argv: list[str], env: dict[str, str], log: str) -> None:
        """Starts a program that runs until `stop`."""
        machine = await self._ready()
        self.background = await self.see(machine.start(argv, self.process_env(env), log=log, user=self._user))

    async def write(self, path: str, data: bytes) -> None:
        """Writes a file; as another user, by a program of that user's."""
        machine = await self._ready()
        if self._user is None:
            await self.see(machine.write(path, data))
            return
        try:
            await self.pipe(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path], data)
        except _SandboxError as error:
            raise SandboxError(f"write {path!r}: {error}") from error.__cause__

    async def pipe(self, argv: list[str], data: bytes) -> bytes:
        """Runs a program that reads something: what it prints.

        Raises:
            SandboxError: It fails; with the end of what it says of that.
        """
        machine = await self._ready()
        env = self.process_env({})
        program = await self.see(machine.start(argv, env, stdin=True, user=self._user))
        await self.see(program.write(data))
        await self.see(program.write(b""))
        status, out, err = await self.see(program.collect())
        if status:
            raise SandboxError(err.decode(errors="replace").strip()[-500:])
        return out

    async def _read(self, path: str, max_bytes: int | None = None) -> bytes:
        machine = await self._ready()
        try:
            return await self.see(machine.read(path, max_bytes))
        except _SandboxError as error:
            raise SandboxError(f"read {path!r}: {error}") from error.__cause__

    async def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """A file's bytes; with a limit, an error where there are more."""
        if max_bytes is None:
            return await self._read(path)
        if max_bytes < 0:
            raise ValueError("max_bytes must be non-negative")
        data = await self._read(path, max_bytes + 1)
        if len(data) > max_bytes:
            raise SandboxError(f"read {path!r}: over the {max_bytes} byte limit")
        return data

    async def prepare_uv_script(
        self, script: str | bytes, env: dict[str, str] | None = None, *, activate: bool = True
    ) -> list[str]:
        """How a script with inline metadata is run: by a Python of the image's that has what it asks for.

        Raises:
            SandboxError: The image has none, and uv could not make one.
        """
        await self._ready()
        assert self._description is not None
        text = script.decode() if isinstance(script, bytes) else script
        wanted = sorted(_read_dependencies(text))
        for python, names in self._description.programs.items():
            if sorted(names) == wanted:
                return await self._use_python(python, text, activate)
        try:
            return cast(list[str], await super().prepare_uv_script(script, env, activate=activate))
        except RuntimeError as error:
            raise SandboxError(
                f"the image has no packages for a program that needs {', '.join(wanted)}, and uv could not "
                "install them there, since it has no network; take an image of Kumite's (leave sandbox.image "
                "and the task's image out), put them into yours, or name the package index in sandbox.allow: "
                f"{error}"
            ) from error

    async def _use_python(self, python: str, script: str, activate: bool) -> list[str]:
        path = f"{self.scripts_dir}/{hashlib.sha256(script.encode()).hexdigest()[:16]}.py"
        await self.write(path, script.encode())
        if not activate:
            return [python, path]
        folder = python.removesuffix("/bin/python")
        shell = 'export VIRTUAL_ENV="$1" PATH="$1/bin:$PATH"; shift; exec "$@"'
        return ["sh", "-c", shell, "uv-script", folder, python, path]

    def host_url(self, url: str) -> str:
        """Where a program inside reaches what the worker serves at a URL."""
        if self._session is None:  # the harness is a loop in the worker
            return url
        return re.sub(r"^https?://[^/]*", self._session.gateway_address, url)

    async def expose(self, port: int) -> str:
        """Refuses: nothing outside can connect to a container."""
        raise SandboxError(
            f"a server in the container (port {port}) can't be reached from outside: it has no network; have "
            "the toolset colocated with the harness, or on the worker's side"
        )

    async def prepare_execution(self, routes: list[str] | None) -> None:
        """Has only the allowed hosts be reached that the network policy permits; None: all of them again."""
        if self._session is None or self._session.allowed_hosts is None:
            return
        permits = None if routes is None or not self.network_restricted else _permits(self.config)
        self._session.allowed_hosts.restrict(permits)

    @property
    def _user(self) -> str | None:
        return getattr(self, "user", None)

    async def _ready(self) -> Machine:
        """The machine; the container is taken where it is not yet."""
        async with self._taking:
            if self._machine is None:
                sandboxes = self._play.sandboxes
                assert sandboxes is not None
                self._session = session = await self.see(sandboxes.acquire(wish_of(self.config)))
                assert self._play.serve is not None
                session.serve_connections(self._play.serve)
                await self.see(session.open({"workdir": workdir_of(self.config)}))
                machine = Machine(session)
                self._description = told = await self.see(machine.describe())
                self.config = self.config.model_copy(update={"workdir": told.workdir})
                self.info.id = session.sandbox.id
                self._machine = machine
        return self._machine

    async def see(self, work: Awaitable[_T]) -> _T:
        """Does something in the container; what it fails with is verifiers' error, and ours is noted."""
        try:
            return await work
        except MachineError as error:
            raise SandboxError(str(error)) from error
        except errors.SandboxError as error:
            self._play.sandbox_failure = error
            raise SandboxError(str(error)) from error


class _LiveProcess(_Process):
    """A program whose input and output are open."""

    def __init__(self, program: Program, runtime: ContainerRuntime) -> None:
        self._program = program
        self._runtime = runtime
        self.stdout = _pieces(program.out)
        self.stderr = _pieces(program.err)

    async def write(self, data: bytes) -> None:
        """Writes to its input."""
        await self._runtime.see(self._program.write(data))

    async def wait(self) -> int:
        """Its exit code, when it has ended."""
        return await self._runtime.see(asyncio.shield(self._program.ended))

    async def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._program.ended.result() if self._program.ended.done() else None

    async def terminate(self) -> None:
        """Asks it to end."""
        await self._runtime.see(self._program.signal(signal.SIGTERM))

    async def kill(self) -> None:
        """Ends it."""
        await self._runtime.see(self._program.signal(signal.SIGKILL))


async def _pieces(queue: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
    while (piece := await queue.get()) is not None:
        yield piece


def _read_dependencies(script: str) -> list[str]:
    found = _DEPENDENCIES.search(script)
    return _NAMES.findall(found[1]) if found else []


def _permits(config: Any) -> Any:
    def permits(host: str, port: int) -> bool:
        scheme = "http" if port == 80 else "https"
        return bool(config.permits(scheme, host, port))

    return permits
