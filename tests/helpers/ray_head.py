"""A Ray head of a test's own: job server, token authentication, loopback only; ended by process id."""

import os
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT, STOP_TIMEOUT = 90.0, 30.0
"""Seconds; 7 and 4 are usual."""


@dataclass(frozen=True)
class RayHead:
    address: str
    """Of the job server."""
    environment: dict[str, str]
    """In which a client has the token, and `ray` and `python` are those of this process."""

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
def ray_head(*, cpus: int, job_stop_wait: int) -> Generator[RayHead]:
    """Starts a head; ends every process of it when left.

    Args:
        cpus: Its logical CPUs.
        job_stop_wait: Seconds that `ray job stop` leaves between SIGTERM and SIGKILL.
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
    }
    dashboard, agent, client = _free_ports(3)
    command = ["ray", "start", "--head", "--block", "--port=0", f"--temp-dir={folder}", f"--num-cpus={cpus}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command += [f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            command,
            cwd=folder,
            # Ray listens on every interface of a machine that it takes for one of several.
            env=environment
            | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_JOB_STOP_WAIT_TIME_S": str(job_stop_wait)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_until_up(head, address, log)
        yield RayHead(address, environment)
    finally:
        _end(head, token)
        shutil.rmtree(folder, ignore_errors=True)


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


def _end(head: "subprocess.Popen[bytes]", token: Path) -> None:
    head.terminate()
    try:
        head.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait(STOP_TIMEOUT)
    deadline = time.monotonic() + STOP_TIMEOUT
    while left := _having(token):
        if time.monotonic() > deadline:
            raise RuntimeError(f"these processes of the Ray head do not end: {left}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def _having(token: Path) -> list[int]:
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


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
