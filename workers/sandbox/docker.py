"""The `docker` backend: one container, owned through its stdin, with every isolation flag on."""

import asyncio
import json
import logging
import random
import socket
from collections.abc import Callable
from typing import Any, cast

import docker
import docker.errors
import requests

from sandbox_images.bundle_volume import programs_volume_name
from workers.cancellation import run_to_end
from workers.errors import EndCause, SandboxStartError
from workers.sandbox import ownership
from workers.sandbox.base import FIXED_VARIABLES, Owner, Sandbox, ToolsetSpec
from workers.sandbox.connection import GRACE, Connection
from workers.sandbox.container_end import find_container_end
from workers.sandbox.creation import creation_slot
from workers.sandbox.engine import engine
from workers.sandbox.images import (
    ImageFacts,
    container_options,
    inspect_image,
    programs_mount,
    tool_host_mount,
)
from workers.sandbox.isolation import GVISOR, SCRATCH, UID, isolation
from workers.sandbox.wire import StreamDemultiplexer
from workers.settings import SandboxSettings

_log = logging.getLogger(__name__)
_SESSION_UIDS = range(2**17, 2**31 - 2**20, 2**16)
"""Where the user ids of a container's sessions begin: each container its own, for the kernel counts the
processes of a user id over all containers."""
_CANNOT_BOUND = ("storage-opt", "storage opt", "quota")
"""Words of an engine whose storage driver can't bound a container's root file system."""
_left_behind: set[str] = set()
"""Containers of this process that are to be removed when the engine answers again."""


class DockerSandbox(Sandbox):
    """A container whose life hangs on a stream that this process holds."""

    def __init__(self, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner) -> None:
        super().__init__(spec, settings, owner)
        self._container: str | None = None
        self._created: str | None = None
        self._ended: asyncio.Task[EndCause] | None = None
        self._stopped = False
        self._transport: asyncio.Transport | None = None
        wanted = settings.session_users
        if wanted is None:
            wanted = settings.user is None and (spec.session_users or settings.runtime == GVISOR)
        self._session_users = wanted

    async def _launch(self) -> Connection:
        if self.settings.image is None:
            raise SandboxStartError(
                f"sandbox.image is not set; name the image that `kumite images build {self.spec.image}` makes"
            )
        try:
            async with asyncio.timeout(self.settings.start_timeout), creation_slot():
                stream = await asyncio.to_thread(self._create_and_attach)
                loop = asyncio.get_running_loop()
                connection = Connection(self._write, self._hang_up)
                transport, _ = await loop.create_connection(lambda: _Stream(connection), sock=stream)
                self._transport = transport
                await asyncio.to_thread(self._start)
        except TimeoutError as error:
            raise SandboxStartError(
                f"the Docker engine did not start a container within sandbox.start_timeout, "
                f"{self.settings.start_timeout:g} s"
            ) from error
        except docker.errors.ImageNotFound as error:
            ours = str(self.settings.image).startswith("kumite-")
            remedy = (
                f"`kumite images build {self.spec.image}` makes it" if ours else "pull it, or build it there"
            )
            raise SandboxStartError(
                f"sandbox.image: there is no image {self.settings.image} on this node; {remedy}"
            ) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise SandboxStartError(f"the Docker engine could not start a container: {error}") from error
        return connection

    def _write(self, data: bytes) -> None:
        assert self._transport
        self._transport.write(data)

    def _hang_up(self) -> None:
        self.died.set()
        if self._transport is not None:
            self._transport.abort()

    def _create_and_attach(self) -> socket.socket:
        with engine() as client:
            api: Any = client.api
            _remove_left_behind(client)
            created = self._create(client)
            self._container = self._created = container = str(created["Id"])
            self.id = container[:12]
            if self._stopped:  # while this thread was waiting for the engine
                self._remove(container)
                raise SandboxStartError("the sandbox was stopped while it was being created")
            attached = api.attach_socket(
                container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            stream: object = getattr(attached, "_sock", attached)
            if not isinstance(stream, socket.socket):
                raise SandboxStartError(
                    f"DOCKER_HOST {api.base_url} speaks through {type(stream).__name__}; a unix:// or plain "
                    "tcp:// engine is needed"
                )
            # Taken out of the SDK's hands for good: a wrapper of its that lives on must not keep the
            # connection open when we close it, for then the container would not notice.
            mine = socket.socket(fileno=stream.detach())
            mine.setblocking(False)
            return mine

    def _start(self) -> None:
        with engine() as client:
            cast(Any, client.api).start(self._container)

    def _create(self, client: docker.DockerClient) -> dict[str, Any]:
        assert self.settings.image is not None
        facts = inspect_image(client, self.settings.image)
        create = cast(Callable[[Any], dict[str, Any]], client.api.create_container_from_config)
        try:
            return create(self._config(client, facts, bounded_root=True))
        except docker.errors.APIError as error:
            if self.settings.root_mb is None or not any(word in str(error).lower() for word in _CANNOT_BOUND):
                raise
        _log.warning(
            "sandbox.root_mb: this engine's storage driver can't bound a root file system; in place of all "
            "of it, only /tmp, /var/tmp, /run, /root and /home can be written to, in memory"
        )
        return create(self._config(client, facts, bounded_root=False))

    def _config(self, client: docker.DockerClient, facts: ImageFacts, bounded_root: bool) -> dict[str, Any]:
        api: Any = client.api
        options: dict[str, Any] = {**self._options(), "scratch": SCRATCH, "contained": True}
        user = UID
        if self._session_users:
            user = 0
            options["first_user"] = random.choice(_SESSION_UIDS)
            options["limits"]["processes"] = max(2, self.settings.pids // 2)
        if self.settings.user == "root":
            user = 0
        mounts: list[Any] = []
        started: dict[str, Any] = {"environment": FIXED_VARIABLES}
        if not facts.has_tool_host:
            mounts = [tool_host_mount(client, str(self.settings.image), self.settings.tool_host)]
            if programs := programs_volume_name(self.spec.image):
                mounts += filter(None, [programs_mount(client, programs)])
            started = container_options(facts, SCRATCH if self.settings.root_mb is None else None)
            self.variables = dict(facts.variables)
        host_config = isolation(
            self.settings,
            self._session_users,
            bounded_root=bounded_root,
            volumes=facts.volumes,
            mounts=mounts,
            writable_folders=self.spec.writable_folders,
        )
        config = api.create_container_config(
            image=self.settings.image,
            command=[self.spec.toolset, json.dumps(options)],
            user=f"{user}:{user}",
            working_dir=SCRATCH,
            stdin_open=True,
            stop_signal="SIGKILL",  # it is init, to which no other does anything: an engine would wait
            labels=ownership.labels(self.owner),
            host_config=api.create_host_config(**host_config),
            hostname="sandbox",
            **started,
        )
        # The engine closes the container's stdin when our end goes: the pipe is the ownership.
        return {**cast(dict[str, Any], config), "AttachStdin": True, "StdinOnce": True}

    async def find_cause_of_death(self) -> EndCause:
        """Asks the engine what ended the container, once."""
        if self._ended is None:
            asked = asyncio.to_thread(find_container_end, self._created or "")
            self._ended = asyncio.create_task(asked)
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Hangs up, on which the container exits and is removed; removes it by force if it is not."""
        self._stopped = True
        self._hang_up()  # there may be a stream before there is a connection to give up
        self.give_up("it was stopped")
        if self._container is not None:
            container, self._container = self._container, None
            try:
                await run_to_end(asyncio.to_thread(self._remove, container))
            except (docker.errors.DockerException, requests.RequestException) as error:
                _log.warning(
                    "the Docker engine could not remove container %s: %s", container[:12], str(error)
                )
                _left_behind.add(container)

    def _remove(self, container: str) -> None:
        with engine() as client:
            _remove_left_behind(client)
            if self.is_up:
                if _wait_until_removed(client, container):
                    return
                _log.warning("container %s did not go when its pipe closed; removing it", container[:12])
            try:
                client.api.remove_container(container, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != requests.codes.conflict or not _wait_until_removed(client, container):
                    raise


def _remove_left_behind(client: docker.DockerClient) -> None:
    """Removes what an engine that was away could not, now that it answers."""
    for container in list(_left_behind):
        try:
            client.api.remove_container(container, force=True)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:  # perhaps it is at it: that may fail, so look again
            _log.warning("container %s is not removed yet: %s", container[:12], str(error))
            continue
        _left_behind.discard(container)


def _wait_until_removed(client: docker.DockerClient, container: str) -> bool:
    """Waits until the engine has removed a container that it is about to remove by itself."""
    try:
        told = client.api.wait(container, timeout=int(GRACE), condition="removed")
    except docker.errors.NotFound:
        return True
    except (docker.errors.APIError, requests.RequestException):
        return False
    return not told.get("Error")  # so it says that it could not


class _Stream(asyncio.Protocol):
    """Docker's attach stream: takes the two output streams apart and hands them to the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._demultiplexer = StreamDemultiplexer()

    def data_received(self, data: bytes) -> None:
        for name, piece in self._demultiplexer.feed(data):
            if name == "stdout":
                self._connection.feed(piece)
            else:
                self._connection.feed_stderr(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.break_off(f"its stream closed{f': {exc}' if exc else ''}")
