"""The `docker` backend: one container, owned through its stdin, with every isolation flag on."""

import asyncio
import json
import logging
import random
import socket
from typing import Any, cast

import docker
import docker.errors
import requests
from docker.types import LogConfig, Ulimit

from workers.errors import EndCause, SandboxStartError
from workers.sandbox import ownership
from workers.sandbox.base import Owner, Sandbox, ToolsetSpec
from workers.sandbox.connection import GRACE, Connection
from workers.sandbox.container_end import find_container_end
from workers.sandbox.creation import creation_slot
from workers.sandbox.engine import engine
from workers.sandbox.seccomp import seccomp_option
from workers.sandbox.wire import StreamDemultiplexer
from workers.settings import SandboxSettings

_log = logging.getLogger(__name__)
_SCRATCH = "/scratch"
_UID = 65534
_SESSION_UIDS = range(2**17, 2**31 - 2**20, 2**16)
"""Where the user ids of a container's sessions begin: each container its own, for the kernel counts the
processes of a user id over all containers."""

_GVISOR = "runsc"
"""Its kernel lets a process of the tool host's own user kill it, though it is init, and open its pipe."""
_KEPT_MEMORY = {
    "kernel.shmall": "4096",
    "kernel.shmmni": "64",
    "kernel.sem": "256 4096 64 64",
    "kernel.msgmni": "16",
    "kernel.msgmnb": "8192",
    "kernel.msgmax": "8192",
    "fs.mqueue.queues_max": "16",
    "net.ipv4.tcp_rmem": "4096 65536 262144",
    "net.ipv4.tcp_wmem": "4096 16384 262144",
}
"""Bounds of kernel memory that no process holds, so that no kill would set it free: System V shared memory
(16 MiB), semaphores (256 KiB) and messages (8 MiB with what the kernel adds to each), POSIX queues; and
buffers of TCP sockets, which count as no process's own."""
_FILES_PER_MB = 256
_SHM_MB = 64
"""Empty files take a kibibyte each of memory that no process holds, so they are bounded as bytes are."""
_left_behind: set[str] = set()
"""Containers of this process that are to be removed when the engine answers again."""


def isolation(settings: SandboxSettings, session_users: bool) -> dict[str, Any]:
    """What a container may do, as arguments of the SDK's `create_host_config`: nothing it does not need."""
    host = 0 if session_users else _UID
    mode = "0711" if session_users else "0700"
    scratch, shared = (
        "" if settings.runtime == _GVISOR else f",nr_inodes={size * _FILES_PER_MB}"  # whose memory is its own
        for size in (settings.scratch_mb, _SHM_MB)
    )
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "cap_add": ["CHOWN", "KILL", "SETGID", "SETUID"] if session_users else None,
        "security_opt": ["no-new-privileges", *seccomp_option(settings.seccomp)],
        "read_only": True,
        "tmpfs": {
            _SCRATCH: f"size={settings.scratch_mb}m,mode={mode},uid={host},gid={host},nosuid,nodev{scratch}",
            "/dev/shm": f"size={_SHM_MB}m,mode=1777,nosuid,nodev,noexec{shared}",
        },
        "mem_limit": settings.memory_mb * 1024 * 1024,
        "memswap_limit": settings.memory_mb * 1024 * 1024,
        "nano_cpus": int(settings.cpus * 1e9),
        "pids_limit": settings.pids,
        "ulimits": [
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=4096, hard=4096),
            Ulimit(name="sigpending", soft=4096, hard=4096),
            Ulimit(name="msgqueue", soft=819_200, hard=819_200),
        ],
        "ipc_mode": "private",
        "sysctls": _KEPT_MEMORY,
        "auto_remove": True,
        "log_config": LogConfig(type=LogConfig.types.NONE),
        "runtime": settings.runtime,
    }


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
        self._session_users = spec.session_users or settings.runtime == _GVISOR if wanted is None else wanted

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
            raise SandboxStartError(
                f"there is no image {self.settings.image} on this node; `kumite images build "
                f"{self.spec.image}` makes it"
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
            created = api.create_container_from_config(self._config(api))
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

    def _config(self, api: Any) -> dict[str, Any]:
        options: dict[str, Any] = {**self._options(), "scratch": _SCRATCH, "contained": True}
        user = _UID
        if self._session_users:
            user = 0
            options["first_user"] = random.choice(_SESSION_UIDS)
            options["limits"]["processes"] = max(2, self.settings.pids // 2)
        config = api.create_container_config(
            image=self.settings.image,
            command=[self.spec.toolset, json.dumps(options)],
            user=f"{user}:{user}",
            working_dir=_SCRATCH,
            stdin_open=True,
            stop_signal="SIGKILL",  # it is init, to which no other does anything: an engine would wait
            labels=ownership.labels(self.owner),
            host_config=api.create_host_config(**isolation(self.settings, self._session_users)),
            hostname="sandbox",
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
                await asyncio.to_thread(self._remove, container)
            except (docker.errors.DockerException, requests.RequestException) as error:
                _log.warning(
                    "the Docker engine could not remove container %s: %s", container[:12], str(error)
                )
                _left_behind.add(container)

    def _remove(self, container: str) -> None:
        with engine() as client:
            _remove_left_behind(client)
            if self.is_up:
                if _goes(client, container):
                    return
                _log.warning("container %s did not go when its pipe closed; removing it", container[:12])
            try:
                client.api.remove_container(container, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != requests.codes.conflict or not _goes(client, container):
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


def _goes(client: docker.DockerClient, container: str) -> bool:
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
