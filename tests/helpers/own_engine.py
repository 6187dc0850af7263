"""A Docker engine of the test's own, to be killed and started again: the machine's stays as it is."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

_PATIENCE = 120.0


class OwnEngine:
    """A `dockerd` beside the machine's, with folders, a socket and a containerd of its own.

    Args:
        root: For all of them; sockets need it short.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = f"unix://{root}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it unless it runs, and returns when it answers."""
        if self._process is not None:
            return
        options = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    *(f"--{name}={self._root / place}" for name, place in options.items()),
                    f"--host={self.url}",
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it by a signal, and returns when it and its containerd are gone."""
        if self._process is None:
            return
        containerd = self._containerd()
        self._process.send_signal(number)
        self._process.wait(_PATIENCE)
        self._process = None
        deadline = time.monotonic() + _PATIENCE
        while containerd is not None and Path(f"/proc/{containerd}").exists():
            assert time.monotonic() < deadline, "its containerd outlives it"
            time.sleep(0.05)

    def load(self, image: str, source: docker.DockerClient) -> None:
        """Takes an image over from another engine."""
        client = docker.DockerClient(base_url=self.url, timeout=int(_PATIENCE))
        try:
            parts: Any = source.images.get(image).save(named=image)  # it may have other names
            client.images.load(parts)
        finally:
            client.close()

    def log(self) -> str:
        return (self._root / "log").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        with suppress(docker.errors.DockerException, OSError):
            client = docker.DockerClient(base_url=self.url, version="1.40", timeout=5)
            try:
                return bool(client.ping())
            finally:
                client.close()
        return False

    def _containerd(self) -> int | None:
        with suppress(OSError, ValueError):
            return int((self._root / "exec" / "containerd" / "containerd.pid").read_text())
        return None


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """An engine that has started; at the end, nothing of it is left."""
    if os.geteuid() != 0:
        pytest.skip("to start an engine takes root")
    if shutil.which("dockerd") is None:
        pytest.skip("there is no dockerd on this machine to start")
    root = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    engine = OwnEngine(root)
    try:
        engine.start()
        yield engine
    finally:
        engine.end()
        _unmount(root)
        shutil.rmtree(root)


def _unmount(root: Path) -> None:
    """What an engine that was killed has mounted, and mounted again when it came back."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{root}/")]):
        subprocess.run(["umount", mount], check=True, timeout=_PATIENCE)
