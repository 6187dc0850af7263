"""verifiers' toolsets (`vf.Toolset`) on the worker's side: the loop calls them, a program asks over the pipe.

A toolset that the task's author wrote is Python of the environment's, like its rewards, and runs where those
run. One that is served elsewhere (`url`) is asked there. One that is `colocated` runs beside its program.
"""

import importlib
import inspect
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Any, Protocol, cast

from aiohttp import web
from pydantic import ValidationError
from verifiers.v1.errors import ToolsetError
from verifiers.v1.mcp import SharedToolServer, Toolset
from verifiers.v1.mcp.server import ServerBase

from workers.environments.v1.colocated_tools import serve_colocated
from workers.environments.v1.remote_tools import RemoteTools
from workers.environments.v1.tool_endpoints import ROUTE, RemoteEndpoint, ToolEndpoint, WorkerEndpoint
from workers.environments.v1.tool_results import to_chat_content

_log = logging.getLogger(__name__)
_Toolset: Any = Toolset
_Base: Any = ServerBase
_SharedToolServer: Any = SharedToolServer
_HOST = "http://127.0.0.1"
"""Where toolsets are, of which a container has its own address: see `ContainerRuntime.host_url`."""
_KEY = re.compile(re.escape(ROUTE).replace(r"\{key\}", "([^/]+)") + "$")
_MOST_SILENCE = 600.0
"""Most seconds that a toolset elsewhere may say nothing, as long as verifiers' own programs wait."""
_called: ContextVar[Any] = ContextVar("kumite_called_toolset")
"""The toolset whose tool is called: toolsets of one kind share their tools' schemas."""
_calling: ContextVar[Any] = ContextVar("kumite_calling_session")
"""verifiers' session of the rollout that calls a tool, whose state the tool sees."""


class ToolServer(Protocol):
    """A toolset as the loop calls it."""

    async def list_tools(self) -> list[dict[str, Any]]:
        """Name, description and parameters of each tool."""
        ...

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """A tool's result as the content of a chat message, and whether it is an error."""
        ...

    async def close(self) -> None:
        """Ends what the caller alone has of it."""
        ...


@dataclass(frozen=True)
class Caller:
    """A rollout that is served toolsets, and the program that calls them."""

    session: Any
    """verifiers' session of the rollout."""
    runtime: Any = None
    """Where its harness's program runs. None: its harness is the loop in this process."""
    state_base: str = ""
    """verifiers' address of the rollout's state, for toolsets that run beside the program."""
    state_secret: str = ""
    """What opens it."""


@dataclass(frozen=True)
class _Served:
    """A toolset that one rollout may call."""

    tools: "WorkerTools | None"
    """It runs in this process. None: it is elsewhere."""
    url: str
    """Where it is elsewhere."""
    endpoint: ToolEndpoint


class ToolServers:
    """The toolsets that the episodes of a worker are served, by the addresses that verifiers hands around."""

    def __init__(self) -> None:
        self._shared: dict[str, tuple[Any, Any]] = {}
        self._served: dict[str, _Served] = {}
        self._kinds: dict[tuple[type, str], Any] = {}
        self._stack = AsyncExitStack()

    def find(self, url: str, timeout: float) -> ToolServer:
        """The toolset at an address, for the loop.

        Args:
            url: One of those that `serve` has given.
            timeout: Most seconds that a call may take.
        """
        key = _KEY.search(url)
        assert key is not None
        served = self._served[key[1]]
        return served.tools if served.tools is not None else RemoteTools(served.url, timeout)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers what a program in a container asks of a toolset."""
        served = self._served.get(request.match_info["key"])
        if served is None:
            return web.json_response({"error": "no such toolset, or its rollout is over"}, status=404)
        return await served.endpoint.answer(request)

    async def serve_shared(self, toolsets: list[Any]) -> dict[str, Any]:
        """Serves a taskset's own toolsets, which all episodes share, until `close`.

        Raises:
            ToolsetError: One of them does not come up.
        """
        shared: dict[str, Any] = {}
        for toolset in toolsets:
            name: str = toolset.server_name
            if name in shared:
                raise ToolsetError(f"two toolsets of the taskset are named {name!r}; give one a TOOL_PREFIX")
            if toolset.config.url:
                shared[name] = _SharedToolServer(url=toolset.config.url, local=False, external=True)
                continue
            if type(toolset).setup_task is not _Base.setup_task:
                _log.warning(
                    "toolset %s of the taskset has a `setup_task`, which is not called: episodes share it",
                    name,
                )
            self._shared[name] = await self._stack.enter_async_context(self._run(toolset, None))
            shared[name] = _SharedToolServer(url=f"{_HOST}/shared/{name}", local=True)
        return shared

    @asynccontextmanager
    async def serve(
        self, toolsets: list[Any], shared: dict[str, Any], caller: Caller
    ) -> AsyncGenerator[dict[str, str]]:
        """Serves a rollout's toolsets, beside those that it shares: their addresses, by their names.

        Args:
            toolsets: Those of the task.
            shared: Those of the taskset, by name.
            caller: The rollout.

        Raises:
            ToolsetError: One of them does not come up.
        """
        urls: dict[str, str] = {}
        async with AsyncExitStack() as stack:
            for name, server in shared.items():
                made = None if server.external else WorkerTools(*self._shared[name], caller.session)
                urls[name] = await self._open(stack, caller, made, server.url)
            for toolset in toolsets:
                name: str = toolset.server_name
                if name in urls:
                    raise ToolsetError(f"two toolsets of the task are named {name!r}; give one a TOOL_PREFIX")
                if toolset.config.url:
                    urls[name] = await self._open(stack, caller, None, str(toolset.config.url))
                    continue
                if is_colocated(toolset) and caller.runtime is not None:
                    beside = serve_colocated(toolset, caller.runtime, caller.state_base, caller.state_secret)
                    urls[name] = await stack.enter_async_context(beside)
                    continue
                data = caller.session.trace.task.data
                running = await stack.enter_async_context(self._run(toolset, data))
                urls[name] = await self._open(stack, caller, WorkerTools(*running, caller.session), "")
            yield urls

    async def _open(
        self, stack: AsyncExitStack, caller: Caller, tools: "WorkerTools | None", url: str
    ) -> str:
        """The address at which a rollout calls a toolset, until its stack ends."""
        endpoint = RemoteEndpoint(url, _MOST_SILENCE) if tools is None else tools.endpoint()
        key = secrets.token_urlsafe(24)
        stack.push_async_callback(endpoint.close)
        self._served[key] = _Served(tools, url, endpoint)
        stack.callback(self._served.pop, key)
        address = _HOST + ROUTE.format(key=key)
        return address if caller.runtime is None else str(caller.runtime.host_url(address))

    async def close(self) -> None:
        """Ends what all episodes share."""
        await self._stack.aclose()

    @asynccontextmanager
    async def _run(self, toolset: Any, data: Any) -> AsyncGenerator[tuple[Any, Any]]:
        """A toolset and the MCP server of its tools, from its set-up to its end; made anew, of its config."""
        if why := why_not_served(toolset, has_program=False):
            raise ToolsetError(f"toolset {toolset.server_name!r} {why}")
        kind: Any = type(toolset)  # pyright: ignore[reportUnknownVariableType]
        config = toolset.config.model_dump_json()
        own: Any = kind(type(toolset.config).model_validate_json(config))
        own._pull_state, own._push_state = _share_state(own)
        async with own._exit_stack:
            try:
                await own.setup()
                if data is not None:
                    await own.setup_task(type(data).model_validate_json(data.model_dump_json()))
                server = self._server_of(own, config)
            except Exception as error:
                raise ToolsetError(
                    f"toolset {own.server_name!r} does not come up: {type(error).__name__}: {error}"
                ) from error
            yield own, server

    def _server_of(self, toolset: Any, config: str) -> Any:
        """The MCP server that knows a toolset's tools: one for all of its kind, since that takes a while."""
        kind: Any = type(toolset)  # pyright: ignore[reportUnknownVariableType]
        if kind.register is not _Toolset.register:  # it may depend on what its set-up has found
            return _make_server(toolset)
        if (kind, config) not in self._kinds:
            like: Any = kind(toolset.config)
            like._with_state = _call_on_current
            self._kinds[kind, config] = _make_server(like)
        return self._kinds[kind, config]


class WorkerTools:
    """A toolset that runs in this process.

    Args:
        toolset: The toolset.
        server: The MCP server that has its tools.
        session: verifiers' session of the rollout that calls it.
    """

    def __init__(self, toolset: Any, server: Any, session: Any) -> None:
        self._toolset = toolset
        self._server = server
        self._session = session

    async def list_tools(self) -> list[dict[str, Any]]:
        """See `ToolServer.list_tools`."""
        tools: list[Any] = await self._server.list_tools()
        return [
            {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.inputSchema if hasattr(tool, "inputSchema") else tool.input_schema,
            }
            for tool in tools
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """See `ToolServer.call`; what a tool raises is its result, as MCP has it."""
        try:
            result = await self._in_call(lambda: self._server.call_tool(name, arguments))
        except Exception as error:  # noqa: BLE001 - any error of a tool's is what the policy reads
            return str(error), True
        if isinstance(result, tuple):  # MCP 1: what the policy reads, and the same with its structure
            result = cast(tuple[Any, Any], result)[0]
        is_error: bool = getattr(result, "is_error", getattr(result, "isError", False))
        return to_chat_content(getattr(result, "content", result)), is_error

    async def close(self) -> None:
        """See `ToolServer.close`: it lasts as long as its rollout, or the worker."""

    def endpoint(self) -> WorkerEndpoint:
        """The same for a program in a container."""
        return WorkerEndpoint(self._server, self._in_call)

    async def _in_call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does something as a call of the rollout's; what it starts keeps that."""
        calling, called = _calling.set(self._session), _called.set(self._toolset)
        try:
            return await work()
        finally:
            _called.reset(called)
            _calling.reset(calling)


def is_colocated(toolset: Any) -> bool:
    """Whether a toolset is to run in the container of the program that calls it."""
    return bool(getattr(toolset.config, "colocated", False)) and not toolset.config.url


def why_not_served(toolset: Any, *, has_program: bool) -> str | None:
    """Why a toolset cannot be served, and what would be right; None where it can.

    Args:
        toolset: verifiers' toolset.
        has_program: Whether a program in a container calls it, and no loop in the worker.
    """
    config = toolset.config
    if is_colocated(toolset):
        if has_program:
            return None
        return "is `colocated` with a program in a container, and a chat has none; set `colocated: false`"
    if getattr(toolset, "runs_model_code", False):
        where = "set `colocated: true`" if has_program else "none is there"
        return f"runs what the policy wrote (`runs_model_code`), which needs a container; {where}"
    if config.url is None and config.runtime.type != "subprocess":
        beside = ", or is `colocated: true` with its program" if has_program else ""
        return (
            f"wants a container of its own (`runtime.type: {config.runtime.type}`), and none is there; a "
            f"toolset without `runtime` is served by the worker{beside}"
        )
    return None


def _make_server(toolset: Any) -> Any:
    modern = find_spec("mcp.server.mcpserver") is not None  # MCP 2
    module: Any = importlib.import_module(f"mcp.server.{'mcpserver' if modern else 'fastmcp'}")
    server: Any = (module.MCPServer if modern else module.FastMCP)(
        toolset.server_name or type(toolset).__name__, log_level="WARNING"
    )
    toolset.register(server)
    return server


def _call_on_current(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A tool that is called on the toolset of the rollout that calls it."""

    @wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        toolset: Any = _called.get()
        own: Any = toolset._with_state(getattr(toolset, fn.__name__))
        return await own(*args, **kwargs)

    call.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return call


def _share_state(toolset: Any) -> tuple[Callable[[], Any], Callable[[bytes], Any]]:
    """How a toolset reads the calling rollout's state before a call, and how it writes it after."""
    adapter = toolset._state_adapter

    async def pull() -> Any:
        session = _calling.get()
        return adapter.validate_json(session.state_adapter.dump_json(session.trace.state))

    async def push(before: bytes) -> None:
        session, after = _calling.get(), adapter.dump_json(toolset.state)
        if after == before:
            return
        if session.released:
            raise RuntimeError("the rollout is over")
        try:
            session.trace.state = session.state_adapter.validate_json(after)
        except ValidationError as error:
            raise ValueError(f"invalid state for {type(session.trace.state).__name__}: {error}") from error

    return pull, push
