"""Stands in for a program that `program_forks` forks: gives it what is its own, and ends as it does.

Run as a program, with the server's address and the program's arguments.
"""

import contextlib
import json
import os
import signal
import socket
import sys


def main() -> int:
    """Has the program run, and returns its exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{sys.argv[1]}")
        request = {"arguments": sys.argv[2:], "variables": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        signal.signal(signal.SIGTERM, lambda number, _: connection.send(str(number).encode()) and None)
        for inherited in (0, 1, 2):  # the program's now: who reads its output is to see its end
            os.close(inherited)
        status = int(connection.recv(16) or 1)
    if status < 0:
        with contextlib.suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main())
