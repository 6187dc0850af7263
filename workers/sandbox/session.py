"""One episode's tool resources in a sandbox, and where its programs can connect to."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from workers.errors import EndCause, PortTaken, RequestRefused, SandboxDied, SandboxError, SessionLost
from workers.sandbox.allowed_hosts import AllowedHosts
from workers.sandbox.answers import FromSandbox, Opened, OpenedFrame, Scores, ToolResult
from workers.sandbox.connection import GRACE
from workers.sandbox.relay import ProtocolFactory

if TYPE_CHECKING:
    from workers.sandbox.base import Sandbox

_Model = TypeVar("_Model", bound=FromSandbox)
_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_NO_PROXY = ("NO_PROXY", "no_proxy")
_PORT_TRIES = 8
"""How often a session is asked for. A neighbour that takes all ports costs the sandbox, and not more time."""

FROM_WITHIN: frozenset[EndCause] = frozenset(
    {"session", "protocol", "memory", "time", "capacity", "tool_host"}
)
"""The causes that code inside a sandbox can bring about, as `SandboxError.cause` names them.

- `session`: the session's process exited, crashed, was killed from inside, or closed its channel.
- `protocol`: the session, or the tool host, sent what is no frame, or no answer in form.
- `memory`: the kernel killed the session, or the whole container, because the container's memory ran out.
- `time`: the session, or the tool host, did not answer within its limit while the engine still answered.
- `capacity`: the container has no room for another process or descriptor.
- `tool_host`: the tool host ended by itself, with an error.

The others come from outside: `engine`, where the engine or somebody on the machine ended the container or no
longer answers, and `toolset`, where a hook of the toolset raised: its author's fault, as a rule.
"""


@dataclass
class _Listener:
    """Where a session's programs can connect to."""

    factory: ProtocolFactory
    port: int
    names: tuple[str, ...]
    """The environment variables that tell of the port."""
    socket_variable: str | None = None
    """The one that is to tell of a Unix socket which leads to the same."""
    others: dict[str, str] = field(default_factory=dict[str, str])
    """Environment variables that go with them."""

    @property
    def variables(self) -> dict[str, str]:
        return {**dict.fromkeys(self.names, _address(self.port)), **self.others}


class Session:
    """One episode's tool resources, as an environment sees them in `state["sandbox"]`."""

    def __init__(self, sandbox: "Sandbox", name: str) -> None:
        self.sandbox = sandbox
        self.name = name
        self.opened: Opened | None = None
        self.calls = 0
        self.call_errors: list[bool] = []
        """Of each call that gave a result: whether that was an error."""
        self.scores: Scores | None = None
        self.failure: SandboxError | None = None
        """What ended the session before its time. Its episode can come to no score any more."""
        self._listeners: list[_Listener] = []
        self._gateway: _Listener | None = None
        self._is_opening = False
        self.allowed_hosts: AllowedHosts | None = None
        """Its way to the hosts that `sandbox.allow` names."""

    def was_ended_from_within(self, error: SandboxError) -> bool:
        """Whether the code in this session must answer for an error.

        It must where something inside of the container can have caused it and no other session has ever been
        in there: the episode is then scored as it is, and not played again. Where others have been there, the
        one that the tool host found to have done it is told so by `cause` as well, but it is no proof.
        """
        return self.sandbox.served == 1 and error.cause in FROM_WITHIN

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        return self  # verifiers copies the state that carries us

    def serve_connections(self, factory: ProtocolFactory) -> None:
        """Answers what the session's programs send to `gateway_address`, and to nowhere else.

        To be called once, before `open`. The address is in the session's environment as `KUMITE_GATEWAY`,
        and the path of a Unix socket that leads to the same as `KUMITE_GATEWAY_SOCKET`. When the session is
        closed, all its connections are reset.

        Args:
            factory: Makes the protocol of one connection, as `asyncio.loop.create_server` takes it; its
                transport is a `RelayTransport`.

        Raises:
            RuntimeError: The session is open, or has been given a factory.
            SandboxDied: The sandbox is gone.
        """
        if self._gateway is not None:
            raise RuntimeError("serve_connections: the session's connections are served already")
        self._gateway = self._listen(factory, "KUMITE_GATEWAY")
        self._gateway.socket_variable = "KUMITE_GATEWAY_SOCKET"

    @property
    def gateway_address(self) -> str:
        """Where `serve_connections` is reached from inside, `http://127.0.0.1:PORT`; `open` may change it.

        Raises:
            RuntimeError: `serve_connections` was not called.
        """
        if self._gateway is None:
            raise RuntimeError("gateway_address: call serve_connections first")
        return _address(self._gateway.port)

    def _listen(self, factory: ProtocolFactory, *names: str) -> _Listener:
        if self._is_opening:
            raise RuntimeError("serve_connections: to be called before the session is opened")
        listener = _Listener(factory, self.sandbox.serve_port(factory), names)
        self._listeners.append(listener)
        return listener

    def _listen_elsewhere(self) -> None:
        """Gives up the ports of all listeners for others."""
        for listener in self._listeners:
            self.sandbox.close_port(listener.port)
            listener.port = self.sandbox.serve_port(listener.factory, elsewhere=True)

    async def open(self, task: dict[str, Any], timeout: float | None = None) -> Opened:
        """Sets up the tool resources for a task.

        Args:
            task: What the toolset is to set up.
            timeout: Seconds that it may take. None: `sandbox.setup_timeout`.

        Raises:
            SessionSetupError: The toolset refused.
            SandboxError: The sandbox could not.
        """
        if self.sandbox.settings.allow and self.allowed_hosts is None:
            settings = self.sandbox.settings
            self.allowed_hosts = AllowedHosts(settings.allow, settings.allow_mb << 20)
            listener = self._listen(self.allowed_hosts.make_protocol, *_PROXY)
            listener.others.update(dict.fromkeys(_NO_PROXY, "127.0.0.1,localhost"))
        self._is_opening = True
        answer = await self._open(task, timeout or self.sandbox.settings.setup_timeout)
        begun = await self._checked(OpenedFrame, answer)
        tools = begun.tools
        if tools is None:
            tools = [] if begun.tools_id is None else await self.sandbox.tool_schemas(begun.tools_id)
        self.opened = Opened(tools, begun.tools_id, begun.observation, begun.state_id)
        return self.opened

    async def _open(self, task: dict[str, Any], timeout: float) -> Any:
        """Asks for the session; with other ports where something inside has taken these."""
        for _ in range(_PORT_TRIES - 1):
            with suppress(PortTaken):
                return await self._request("open", timeout, task=task, **self._asked_for())
            self.failure = None
            self._listen_elsewhere()
        return await self._request("open", timeout, task=task, **self._asked_for())

    def _asked_for(self) -> dict[str, Any]:
        """What the tool host is to listen on, and to tell the session of it."""
        listen = [{"port": each.port, "socket": each.socket_variable} for each in self._listeners]
        variables = dict(self.sandbox.variables)
        for each in self._listeners:
            variables |= each.variables
        asked = {"listen": listen, "variables": variables}
        return {name: value for name, value in asked.items() if value}

    async def call(self, tool: str, arguments: dict[str, Any], timeout: float | None = None) -> ToolResult:
        """Calls a tool. One that fails is a result with an error.

        Raises:
            RequestRefused: The arguments are too large or nested too deep; nothing has happened.
            ToolsetError: The toolset has a bug.
            SandboxError: The session is lost.
        """
        limit = timeout or self.sandbox.settings.call_timeout
        self.calls += 1
        try:
            answer = await self._request("call", limit, tool=tool, arguments=arguments)
        except RequestRefused:
            self.calls -= 1
            raise
        result = await self._checked(ToolResult, answer)
        self.call_errors.append(result.error is not None)
        return result

    async def state(self) -> Any:
        """The environment's whole state now, as JSON."""
        return await self._request("state", self.sandbox.settings.call_timeout)

    async def evaluate(self, trace: dict[str, Any], timeout: float | None = None) -> Scores:
        """Scores the episode, and collects the state patches of all its calls."""
        limit = timeout or self.sandbox.settings.call_timeout
        answer = await self._request("evaluate", limit, trace=trace)
        self.scores = await self._checked(Scores, answer)
        return self.scores

    async def oracle(self) -> list[dict[str, Any]]:
        """The task's ground truth: assistant messages in order."""
        return await self._request("oracle", self.sandbox.settings.call_timeout)

    async def close(self) -> None:
        """Kills all that belongs to the session. Idempotent; a sandbox that is dead has closed it already."""
        for listener in self._listeners:
            self.sandbox.close_port(listener.port)
        if self.allowed_hosts is not None:
            await self.allowed_hosts.close()
        if self.name in self.sandbox.sessions:
            self.sandbox.sessions.discard(self.name)
            if self.sandbox.alive:
                await self.sandbox.request("close", GRACE, session=self.name)

    async def _request(self, op: str, timeout: float, **fields: Any) -> Any:
        try:
            return await self.sandbox.request(op, timeout, session=self.name, **fields)
        except (SandboxDied, SessionLost) as error:
            self.failure = error
            if error.cause is None:
                error.cause = await self.sandbox.find_cause_of_death()
            raise

    async def _checked(self, model: type[_Model], answer: Any) -> _Model:
        try:
            return model.model_validate(answer)
        except ValidationError as error:
            await self.close()  # its process, which tools run in, may have been made to say anything
            self.failure = SessionLost(f"the session answered out of form: {str(error)[:200]}")
            self.failure.cause = "protocol"
            raise self.failure from error


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"
