"""verifiers' toolsets (`vf.Toolset`) on the worker's side: the loop calls them, a program asks over the pipe.

A toolset that the task's author wrote is Python of the environment's, like its rewards, and runs where those
run. One that is served elsewhere (`url`) is asked there. One that is `colocated` runs beside its program, and
one with a `runtime` runs in a container of its own.
"""

import logging
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web
from verifiers.v1.errors import ToolsetError
from verifiers.v1.mcp import SharedToolServer, Toolset
from verifiers.v1.mcp.server import ServerBase

from workers.environments.v1.colocated_tools import serve_colocated
from workers.environments.v1.contained_tools import ContainedEndpoint, ContainedTools, serve_contained
from workers.environments.v1.remote_tools import RemoteTools
from workers.environments.v1.sandboxes import wants_container
from workers.environments.v1.tool_endpoints import MOST_SILENCE, ROUTE, RemoteEndpoint, ToolEndpoint
from workers.environments.v1.worker_tools import WorkerTools, call_on_current, make_server, share_state

_log = logging.getLogger(__name__)
_Toolset: Any = Toolset
_Base: Any = ServerBase
_SharedToolServer: Any = SharedToolServer
_HOST = "http://127.0.0.1"
"""Where toolsets are, of which a container has its own address: see `ContainerRuntime.host_url`."""
_KEY = re.compile(re.escape(ROUTE).replace(r"\{key\}", "([^/]+)") + "$")


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

    for_loop: Callable[[float], ToolServer]
    """The toolset as the loop calls it, by the most seconds that a call may take."""
    endpoint: ToolEndpoint
    """The same for a program in a container."""


class ToolServers:
    """The toolsets that the episodes of a worker are served, by the addresses that verifiers hands around."""

    def __init__(self) -> None:
        self._shared: dict[str, tuple[Any, Any]] = {}
        self._contained: dict[str, Any] = {}
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
        return self._served[key[1]].for_loop(timeout)

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
            if wants_container(toolset):  # each rollout has it in one of its own
                self._contained[name] = toolset
                shared[name] = _SharedToolServer(url=f"{_HOST}/shared/{name}", local=True)
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
                if name in self._contained:
                    urls[name] = await self._open_contained(stack, caller, self._contained[name])
                elif server.external:
                    urls[name] = self._open_remote(stack, caller, server.url)
                else:
                    urls[name] = self._open_own(stack, caller, self._shared[name])
            for toolset in toolsets:
                name: str = toolset.server_name
                if name in urls:
                    raise ToolsetError(f"two toolsets of the task are named {name!r}; give one a TOOL_PREFIX")
                if toolset.config.url:
                    urls[name] = self._open_remote(stack, caller, str(toolset.config.url))
                elif wants_container(toolset):
                    urls[name] = await self._open_contained(stack, caller, toolset)
                elif is_colocated(toolset) and caller.runtime is not None:
                    beside = serve_colocated(toolset, caller.runtime, caller.state_base, caller.state_secret)
                    urls[name] = await stack.enter_async_context(beside)
                else:
                    data = caller.session.trace.task.data
                    running = await stack.enter_async_context(self._run(toolset, data))
                    urls[name] = self._open_own(stack, caller, running)
            yield urls

    def _open_own(self, stack: AsyncExitStack, caller: Caller, running: tuple[Any, Any]) -> str:
        tools = WorkerTools(*running, caller.session)
        return self._open(stack, caller, _Served(lambda _: tools, tools.endpoint()))

    def _open_remote(self, stack: AsyncExitStack, caller: Caller, url: str) -> str:
        endpoint = RemoteEndpoint(url, MOST_SILENCE)
        return self._open(stack, caller, _Served(lambda timeout: RemoteTools(url, timeout), endpoint))

    async def _open_contained(self, stack: AsyncExitStack, caller: Caller, toolset: Any) -> str:
        served = serve_contained(toolset, caller.state_base, caller.state_secret)
        server = await stack.enter_async_context(served)
        return self._open(stack, caller, _Served(lambda _: ContainedTools(server), ContainedEndpoint(server)))

    def _open(self, stack: AsyncExitStack, caller: Caller, served: _Served) -> str:
        """The address at which a rollout calls a toolset, until its stack ends."""
        key = secrets.token_urlsafe(24)
        stack.push_async_callback(served.endpoint.close)
        self._served[key] = served
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
        own._pull_state, own._push_state = share_state(own)
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
            return make_server(toolset)
        if (kind, config) not in self._kinds:
            like: Any = kind(toolset.config)
            like._with_state = call_on_current
            self._kinds[kind, config] = make_server(like)
        return self._kinds[kind, config]


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
    if wants_container(toolset):
        if getattr(config.runtime, "network_restricted", False):
            return (
                "has `allow` or `block` in its `runtime`, which hold for a harness only; leave them out: its "
                "container reaches what sandbox.allow names, and nothing else"
            )
        return None
    if getattr(toolset, "runs_model_code", False):
        beside = "`colocated: true` or " if has_program else ""
        return (
            "runs what the policy wrote (`runs_model_code`), which needs a container; set "
            f"{beside}`runtime: {{type: docker}}`"
        )
    return None
