"""Frames between a worker and its lanes: pickles of our own making, behind their length."""

import asyncio
import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct(">Q")


def pack_message(message: Any) -> bytes:
    """A message as a frame."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader) -> Any:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: The other end is gone.
        ConnectionError: So it is.
    """
    [length] = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))


def send_message_now(connection: socket.socket, message: Any) -> None:
    """Sends a message, off any loop."""
    connection.sendall(pack_message(message))


def read_message_now(connection: socket.socket) -> Any:
    """The next message, off any loop.

    Raises:
        EOFError: The other end is gone.
    """
    [length] = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    return pickle.loads(_receive_exactly(connection, length))


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(1 << 20, length - len(parts)))
        if not part:
            raise EOFError("the other end of a lane's connection is gone")
        parts += part
    return bytes(parts)
