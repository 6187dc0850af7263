"""Connections that leave a sandbox after all: to the hosts that `sandbox.allow` names, by a proxy.

A program in the sandbox speaks HTTP to it (`CONNECT host:port`, or `GET http://host/…`), as its `HTTP_PROXY`
and `HTTPS_PROXY` have it do. The worker looks the name up, and connects only where it is on the list and
leads to a public address that is not this machine's. The name is looked up once, and that is where the
connection goes. What is said over it is not looked at: a host that serves many names may be asked for any.
"""

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from workers.cancellation import cancel_and_wait

_HEAD = 16_384
"""Most bytes of a request's head."""
_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 20.0
"""Seconds that a name may take to be found, and a host to answer."""
_LONGEST_NAME = 253
"""Most characters of a host's name."""
_PIECE = 65_536
_MOST_ENTRIES = 1_000
"""Connections that are kept on record."""
_METADATA = frozenset(map(ipaddress.ip_address, ("168.63.129.16", "169.254.169.254", "fd00:ec2::254")))
"""Where clouds tell a machine its secrets; the first of them looks like any public address."""
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Addresses that stand for IPv4 addresses, which may be anything."""
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""Where all public addresses of IPv6 are. Elsewhere are old forms of private addresses and of IPv4's, such as
`fec0::/10` and `::127.0.0.1`, which the library takes for public ones."""
_OF_THE_PROXY = (b"proxy-", b"connection:", b"keep-alive:", b"te:", b"upgrade:")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class HostConnection:
    """One connection that a session's program has asked for."""

    host: str
    port: int
    address: str | None = None
    """Where it went. Null: nowhere."""
    outcome: str = "open"
    """`done`, or why it was refused or broken off."""
    sent: int = 0
    """Bytes from the sandbox to the host."""
    received: int = 0
    """Bytes from the host to the sandbox."""
    seconds: float = 0.0


class _Refused(Exception):
    """A request that the proxy does not serve, with the status that says so."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


class AllowedHosts:
    """One session's way to the hosts that it may reach.

    Args:
        allowed: Each `host:port`.
        most_bytes: Bytes that all its connections may carry, both ways.
    """

    def __init__(self, allowed: Collection[str], most_bytes: int) -> None:
        self._allowed = {entry.lower() for entry in allowed}
        self._permits: Callable[[str, int], bool] | None = None
        self._left = most_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[HostConnection] = []
        self.left_out = 0
        """Connections that are not in the list for its length."""

    def restrict(self, permits: Callable[[str, int], bool] | None) -> None:
        """Has only those of the hosts be reached from now on that a rule permits. None: all of them."""
        self._permits = permits

    def make_protocol(self) -> asyncio.Protocol:
        """The protocol of one connection from the sandbox."""
        reader = asyncio.StreamReader(limit=_HEAD)
        return asyncio.StreamReaderProtocol(reader, self._begin)

    async def close(self) -> None:
        """Ends all connections."""
        await cancel_and_wait(self._tasks)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entry: HostConnection | None = None
        began = time.monotonic()
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            host, port, onward = _parse(head)
            entry = self._note(host, port)
            theirs = await self._connect(entry)
        except _Refused as refusal:
            if entry is not None:
                entry.outcome = f"refused: {refusal}"
            await _answer(writer, refusal.status, str(refusal))
        except (OSError, TimeoutError) as error:
            if entry is not None:
                entry.outcome = f"failed: {error or type(error).__name__}"
                await _answer(writer, "502 Bad Gateway", f"{entry.host}:{entry.port}: {error}")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await _answer(writer, "400 Bad Request", f"no request of at most {_HEAD} bytes")
        else:
            entry.outcome = await self._carry(entry, onward, (reader, writer), theirs)
        finally:
            if entry is not None:
                entry.seconds = time.monotonic() - began
                if entry.outcome == "open":
                    entry.outcome = "broken off: the session was closed"
            writer.close()

    def _note(self, host: str, port: int) -> HostConnection:
        entry = HostConnection(host, port)
        if len(self.connections) < _MOST_ENTRIES:
            self.connections.append(entry)
        else:
            self.left_out += 1
        return entry

    async def _connect(self, entry: HostConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = f"{entry.host}:{entry.port}"
        if name not in self._allowed:
            raise _Refused("403 Forbidden", f"{name} is not in sandbox.allow")
        if self._permits is not None and not self._permits(entry.host, entry.port):
            raise _Refused("403 Forbidden", f"{name} is not permitted by the task's network policy")
        if self._left <= 0:
            raise _Refused("403 Forbidden", "sandbox.allow_mb is used up")
        async with asyncio.timeout(_CONNECT_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(
                entry.host, entry.port, type=socket.SOCK_STREAM
            )
            addresses = [str(place[0]) for *_, place in found]
            for address in addresses:
                if not is_public(address):
                    raise _Refused(
                        "403 Forbidden", f"{name} leads to {address}, which is not a public address"
                    )
            error: OSError = OSError("it has no address")
            for address in addresses:
                try:
                    theirs = await asyncio.open_connection(address, entry.port, limit=_PIECE)
                except OSError as failed:
                    error = failed
                else:
                    entry.address = address
                    return theirs
        raise error

    async def _carry(
        self,
        entry: HostConnection,
        onward: bytes | None,
        ours: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        theirs: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> str:
        """Carries bytes until both ends have closed, or one breaks; says how it ended."""
        if onward is None:
            ours[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            theirs[1].write(onward)
            entry.sent += len(onward)
        ways = [
            asyncio.create_task(self._copy(entry, "sent", ours[0], theirs[1])),
            asyncio.create_task(self._copy(entry, "received", theirs[0], ours[1])),
        ]
        try:
            await asyncio.gather(*ways)
            return "done"
        except _Refused as refusal:
            return f"broken off: {refusal}"
        except OSError as error:
            return f"broken off: {error or type(error).__name__}"
        finally:
            theirs[1].transport.abort()
            if self._left <= 0:
                ours[1].transport.abort()
            await cancel_and_wait(ways)

    async def _copy(
        self, entry: HostConnection, way: str, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(_PIECE):
            self._left -= len(data)
            if self._left < 0:
                raise _Refused("", "sandbox.allow_mb is used up")
            setattr(entry, way, getattr(entry, way) + len(data))
            target.write(data)
            await target.drain()
        with suppress(OSError):
            target.write_eof()


def is_public(address: str) -> bool:
    """Whether an address is one of the public network's, and neither this machine's nor a cloud's own."""
    place: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(place, ipaddress.IPv6Address) and place.ipv4_mapped is not None:
        place = place.ipv4_mapped
    if place in _METADATA or any(
        place in network for network in _TRANSLATED if network.version == place.version
    ):
        return False
    if place.version == 6 and place not in _GLOBAL_UNICAST:
        return False
    return place.is_global and not place.is_multicast and not _is_this_machines(place)


def _is_this_machines(place: _Address) -> bool:
    """Whether it is an address of this machine: only such can be bound to."""
    family = socket.AF_INET if place.version == 4 else socket.AF_INET6
    try:
        end = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise  # for want of descriptors, say: it is not known
    with end:
        try:
            end.bind((str(place), 0))
        except OSError:
            return False
        return True


def _parse(head: bytes) -> tuple[str, int, bytes | None]:
    """A request's host and port, and what is sent on of it; None: nothing, for it is a CONNECT."""
    line, _, rest = head.partition(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
    except ValueError:
        raise _Refused("400 Bad Request", "the first line is no request of HTTP/1.1") from None
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Refused("505 HTTP Version Not Supported", "the proxy speaks HTTP/1.1")
    try:
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = (url.hostname or "").rstrip(".").lower(), url.port
    except ValueError:
        host, port, url = "", None, urlsplit("")
    if len(host) > _LONGEST_NAME:  # it would be on record as often as it is asked for
        host = ""
    if method == "CONNECT":
        if not host or port is None or url.path or url.username is not None:
            raise _Refused("400 Bad Request", "CONNECT takes host:port")
        return host, port, None
    if url.scheme != "http" or not host or url.username is not None:
        raise _Refused("400 Bad Request", "a proxy takes CONNECT host:port or an http:// URL")
    lines = [each for each in rest.split(b"\r\n") if each and not each.lower().startswith(_OF_THE_PROXY)]
    lines = [each for each in lines if not each.lower().startswith(b"host:")]
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    name = host if port is None else f"{host}:{port}"
    first = [f"{method} {path} HTTP/1.1".encode(), f"Host: {name}".encode(), b"Connection: close"]
    return host, port or 80, b"\r\n".join([*first, *lines, b"", b""])


async def _answer(writer: asyncio.StreamWriter, status: str, why: str) -> None:
    body = f"{why}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    with suppress(OSError):
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
