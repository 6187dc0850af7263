"""A sandbox, whatever it is made of."""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from workers.cancellation import run_to_end
from workers.errors import EndCause, SandboxDied, SandboxStartError
from workers.sandbox.answers import Hello, Opened, Scores, ToolResult, ToolSchema
from workers.sandbox.connection import Connection
from workers.sandbox.relay import ProtocolFactory
from workers.sandbox.session import FROM_WITHIN, Session
from workers.sandbox.toolset_spec import ToolsetSpec as ToolsetSpec
from workers.settings import SandboxSettings

__all__ = [
    "FROM_WITHIN",
    "Hello",
    "Opened",
    "Owner",
    "Sandbox",
    "Scores",
    "Session",
    "ToolResult",
    "ToolSchema",
    "ToolsetSpec",
]

_PORTS = range(61_000, 65_000)
"""Ports inside that connections to this worker go to: beyond those that a kernel gives by itself."""

FIXED_VARIABLES = {"PYTHONHASHSEED": "0"}
"""Environment variables of a tool host of ours. The order of a set may reach the policy, as some tools of
AgentDojo's give what they hold in one: it is the same in every run, whatever the machine's or the image's own
variables say."""


@dataclass(frozen=True)
class Owner:
    """Who a sandbox belongs to, as its container's labels say."""

    run_id: str
    worker_id: str


class Sandbox(ABC):
    """One tool host with a toolset loaded, owned by this process.

    Args:
        spec: What to load.
        settings: Limits and isolation.
        owner: For the labels.
    """

    id: str

    def __init__(self, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner) -> None:
        self.spec = spec
        self.settings = settings
        self.owner = owner
        self.sessions: set[str] = set()
        self.served = 0
        self.lost = 0
        """Sessions that were lost one after the other, up to the last that ended."""
        self.died = asyncio.Event()
        self.is_up = False
        """Whether it has come up: until then it has no session, and need not be ended gently."""
        self._connection: Connection | None = None
        self._next_port = -1
        self.variables: dict[str, str] = {}
        """Environment variables that every session has."""
        self._tools: dict[str, list[ToolSchema]] = {}

    async def start(self) -> Hello:
        """Brings the sandbox up, its toolset preloaded.

        Raises:
            SandboxStartError: It did not come up; nothing of it is left behind.
        """
        try:
            self._connection = await self._launch()
            limit = self.settings.start_timeout
            hello = await self._connection.answer(
                self._connection.hello, limit, "the tool host did not come up"
            )
            checked = Hello.model_validate(hello)
            self.is_up = True
            return checked
        except (SandboxDied, ValidationError) as error:
            await run_to_end(self.stop())
            raise SandboxStartError(str(error)) from error
        except BaseException:
            await run_to_end(self.stop())
            raise

    def serve_port(self, factory: ProtocolFactory, *, elsewhere: bool = False) -> int:
        """Has connections to a port inside, which is chosen here, answered from now on.

        Args:
            factory: Makes the protocol of one connection.
            elsewhere: Whether to choose far from the ports before, which something inside has taken.

        Returns:
            The port. Nobody listens there before a session is opened with it.

        Raises:
            SandboxDied: The sandbox is gone.
        """
        connection = self._connected()
        if elsewhere:
            self._next_port = secrets.randbelow(len(_PORTS))
        port = self._find_port(connection.relay.is_served)
        connection.relay.serve(port, factory)
        return port

    def close_port(self, port: int) -> None:
        """Resets all connections to a port inside."""
        if self._connection is not None:
            self._connection.relay.close(port)

    def _find_port(self, is_taken: Callable[[int], bool]) -> int:
        """A port that no session has, and that programs inside are not likely to use."""
        for _ in _PORTS:
            self._next_port += 1
            port = _PORTS[self._next_port % len(_PORTS)]
            if not is_taken(port):
                return port
        raise SandboxDied("the sandbox has no port left for another session")

    def _connected(self) -> Connection:
        if self._connection is None:
            raise SandboxDied("the sandbox was never started")
        if self._connection.broken:
            raise self._connection.broken
        return self._connection

    @property
    def alive(self) -> bool:
        """Whether requests can be made."""
        return self._connection is not None and self._connection.broken is None

    async def request(self, op: str, timeout: float, **fields: Any) -> Any:
        """See `Connection.request`."""
        if self._connection is None:
            raise SandboxDied("the sandbox was never started")
        return await self._connection.request(op, timeout, **fields)

    def give_up(self, reason: str) -> None:
        """Declares the sandbox dead: it is not to be believed any more."""
        if self._connection is not None:
            self._connection.break_off(reason)

    async def base_state(self, state_id: str) -> Any:
        """The base state that sessions name by this id, as JSON."""
        return await self.request("base_state", self.settings.call_timeout, state_id=state_id)

    async def tool_schemas(self, tools_id: str) -> list[ToolSchema]:
        """The tools that sessions name by this id."""
        if tools_id not in self._tools:
            answer = await self.request("tool_schemas", self.settings.call_timeout, tools_id=tools_id)
            self._tools[tools_id] = [ToolSchema.model_validate(tool) for tool in answer]
        return self._tools[tools_id]

    def session(self, name: str) -> Session:
        """A session, not opened yet. `name` must be unique in this sandbox and fit for a file name."""
        self.sessions.add(name)
        self.served += 1
        return Session(self, name)

    @abstractmethod
    async def _launch(self) -> Connection:
        """Starts the tool host and connects to it."""

    @abstractmethod
    async def find_cause_of_death(self) -> EndCause:
        """Why the sandbox is dead, as far as it can be found out. Never raises, and takes seconds at most."""

    @abstractmethod
    async def stop(self) -> None:
        """Ends it, and returns when nothing of it is left. Idempotent."""

    def _options(self) -> dict[str, Any]:
        """The tool host's options."""
        return {
            "toolset": self.spec.config,
            "limits": self.settings.session_limits.model_dump(),
        }
