"""The process that holds the local Ray cluster that is kept: `python -m cluster.ray_session.holder OPTIONS`.

It is the cluster's head and its parent: the cluster ends when it does, however it does.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from typing import IO

from cluster.ray_session.kept import KeptCluster, lock_file, record_file
from cluster.ray_session.session import start_local


def _take_lock() -> IO[bytes]:
    lock = lock_file().open("wb")
    deadline = time.monotonic() + 5.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:  # whoever looks whether it is held, holds it for that moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def hold_cluster(options: dict[str, object]) -> None:
    """Starts the cluster, records it, and waits to be told to end."""
    lock = _take_lock()
    session = start_local(options)
    kept = KeptCluster(pid=os.getpid(), address=session.address, logs=session.logs, started_at=time.time())
    fresh = record_file().with_suffix(".new")
    fresh.write_text(kept.model_dump_json())
    fresh.replace(record_file())
    told = threading.Event()

    def tell(number: int, frame: object) -> None:
        told.set()

    signal.signal(signal.SIGTERM, tell)
    told.wait()
    record_file().unlink(missing_ok=True)
    session.close()
    lock.close()


if __name__ == "__main__":
    hold_cluster(json.loads(sys.argv[1]))
