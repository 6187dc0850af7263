"""`kumite view`: the server's life, from the address that is printed to Ctrl+C."""

import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import uvicorn

from cluster.errors import ConfigError
from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.library import Library
from cluster.viewer.server import build_app

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def serve_viewer(
    places: Sequence[str], *, host: str, port: int, open_browser: bool, say: Callable[[str], None]
) -> None:
    """Shows runs until it is interrupted.

    Args:
        places: Run folders, URIs, and folders of runs.
        host: The address to listen on.
        port: The port; 0: a free one.
        open_browser: Whether to open the page where there is a browser.
        say: Is told the page's address, and what is to be heeded.

    Raises:
        ConfigError: A place holds no run, or the address cannot be listened on.
    """
    library = Library(places)
    warm = threading.Thread(target=_read_first_index, args=(library,), daemon=True)
    token = secrets.token_urlsafe(24)
    listener = _open_listener(host, port)
    port = listener.getsockname()[1]
    if not _is_loopback(host):
        say(
            f"warning: who can reach {host}:{port} and has the token can read these runs, and what goes over "
            "the network is not encrypted; `ssh -L` to the default address is safer"
        )
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={token}"
    if len(library.runs) == 1:  # there is nothing to choose
        address += f"#/run/{library.runs[0].key}"
    app = build_app(library, token, _LOOPBACK if _is_loopback(host) else None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off"))
    with _ended_by_signals(server):
        say(address)
        warm.start()
        if open_browser and _has_browser():
            # In a thread of its own: a browser that $BROWSER names may run until it is closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.run(sockets=[listener])


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Generator[None]:
    """Has Ctrl+C and SIGTERM end the server from now on, though it is still on its way up.

    An exception, which Python raises wherever it is just then, may be lost in code that takes none.
    """
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_first_index(library: Library) -> None:
    """Reads the first run's index while the browser starts, and loads AgentDojo where it has attacks."""
    try:
        table = library.runs[0].index.table()
        if table["attack"].null_count < table.num_rows:
            AGENTDOJO_SUITES.is_loaded()
    except Exception:  # noqa: BLE001 - the page asks again, and shows what is wrong
        return


def _open_listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot be listened on: {error.strerror}; "
            "give an address of this machine, and a port that is free (0: any)"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_browser() -> bool:
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
