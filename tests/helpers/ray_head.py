"""A Ray cluster of a test's own: job server, token authentication, loopback only; ended by process id."""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

NODE = Path(__file__).parent / "ray_node.py"
START_TIMEOUT, STOP_TIMEOUT = 600.0, 240.0
"""Seconds; 7 and 4 are usual."""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray listens on every interface of a machine that it takes for one of several, and joins by another."""
_HASTE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "8",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
}
"""A lost node is noticed in 8 s instead of 15, and a busy one is not taken for lost. Nodes of the autoscaler
are processes on this machine."""


@dataclass(frozen=True)
class RayHead:
    address: str
    """Of the job server."""
    environment: dict[str, str]
    """In which a client has the token, and `ray` and `python` are those of this process."""
    gcs: str
    """What a driver joins by, and a node."""
    folder: Path
    """For its logs."""
    _nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def add_node(self, *, cpus: int, **resources: float) -> "subprocess.Popen[bytes]":
        """Starts another node on this machine, and returns when it is up."""
        log = self.folder / f"node-{len(self._nodes)}.log"
        with log.open("wb") as output:
            node = subprocess.Popen(
                [sys.executable, str(NODE), self.gcs, str(cpus), json.dumps(resources)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._nodes.append(node)
        deadline = time.monotonic() + START_TIMEOUT
        while not log.read_text().endswith("up\n"):
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        return node

    def lose(self, node: "subprocess.Popen[bytes]") -> None:
        """Takes a node away without a word: SIGKILL to it and to all that runs on it."""
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            process.suspend()  # so that none sees another one's end and acts on it
        for process in processes:
            process.kill()
        node.wait(STOP_TIMEOUT)

    def descendants(self, head: int) -> list[psutil.Process]:
        """All that the head and its nodes have started and that has not been left by its parent."""
        found: list[psutil.Process] = []
        for pid in (head, *(node.pid for node in self._nodes)):
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(pid).children(recursive=True)
        return found

    def raylets(self) -> int:
        """How many nodes there are on this machine now, the head among them."""
        return sum(_name(pid) == "raylet" for pid in having(self.folder / "token"))

    def ray(
        self, *arguments: str, timeout: float, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a `ray job …` command against this head."""
        return subprocess.run(
            ["ray", "job", arguments[0], "--address", self.address, *arguments[1:]],
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@contextmanager
def ray_head(
    *, cpus: int, job_stop_wait: int = 3, node_types: dict[str, Any] | None = None
) -> Generator[RayHead]:
    """Starts a head; ends every process of it, and of nodes that joined it, when left.

    Args:
        cpus: Its logical CPUs.
        job_stop_wait: Seconds that `ray job stop` leaves between SIGTERM and SIGKILL.
        node_types: What Ray's autoscaler may add, as a cluster-launcher file has them; none: no autoscaler.
    """
    # Not in pytest's folder: a socket's path may have 107 bytes, and Ray's own part takes 65 of them.
    folder = Path(tempfile.mkdtemp(prefix="kumite-ray-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "TMPDIR": str(folder),  # Ray's dashboard leaves sockets there
        **_LOOPBACK,
    }
    dashboard, agent, client, gcs = free_ports(4)
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        f"--port={gcs}",
        f"--temp-dir={folder}",
        f"--num-cpus={cpus}",
    ]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command += [f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
    if node_types is not None:
        described = folder / "cluster.json"
        described.write_text(json.dumps(_autoscaled(f"127.0.0.1:{gcs}", cpus, node_types)))
        command.append(f"--autoscaling-config={described}")
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | _HASTE | {"RAY_JOB_STOP_WAIT_TIME_S": str(job_stop_wait)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{dashboard}"
    made = RayHead(address, environment, f"127.0.0.1:{gcs}", folder)
    try:
        _wait_until_up(head, address, log)
        yield made
    finally:
        _end(head, token, made.descendants(head.pid))
        shutil.rmtree(folder, ignore_errors=True)


def _autoscaled(gcs: str, cpus: int, node_types: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` would make of a file with these node types, for nodes that are processes here."""
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "test",
        "max_workers": sum(each["max_workers"] for each in node_types.values()),
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            **node_types,
            "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in lists},
    }


def _wait_until_up(head: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and head.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):  # it answers, and asks for the token
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the Ray head did not come up: {log.read_text()[-2000:]}")


def _end(head: "subprocess.Popen[bytes]", token: Path, descendants: list[psutil.Process]) -> None:
    """Ends the head, and what it and its nodes have started: of some of it, a new title hides the token."""
    head.terminate()
    try:
        head.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait(STOP_TIMEOUT)
    deadline = time.monotonic() + STOP_TIMEOUT
    while left := having(token):
        if time.monotonic() > deadline:
            raise RuntimeError(f"these processes of the Ray head do not end: {left}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    for process in descendants:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def having(token: Path) -> list[int]:
    """Processes that inherited the head's environment, which names a token of this head alone."""
    mark = f"RAY_AUTH_TOKEN_PATH={token}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def command_of(pid: int) -> str:
    """A process's command line; empty if it has ended meanwhile."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, nor will unasked: the kernel itself gives out those from 32768 on."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] * (port not in found)
    return found
