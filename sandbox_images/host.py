"""What the image builder's parts share on the host: the cache folder, the lock, the error."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

OnLine = Callable[[str], None]
"""Takes one line of progress."""


class ImageBuildError(Exception):
    """A sandbox image cannot be built; the message says which part failed and what would mend it."""


def cache_dir() -> Path:
    """Returns `$KUMITE_CACHE`, else `kumite` in the user's cache folder: the same as the cluster side's."""
    if own := os.environ.get("KUMITE_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "kumite"


@contextmanager
def hold_lock(name: str, timeout: float = 1800.0) -> Generator[None]:
    """Holds the lock `name` among all processes of this machine that share the cache folder.

    Args:
        name: A file name.
        timeout: Seconds to wait for another holder.

    Raises:
        ImageBuildError: If another process still holds it after `timeout`.
    """
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with open(folder / name, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ImageBuildError(f"{folder / name} has been locked for {timeout:.0f} s") from None
                time.sleep(0.1)
        yield


def run_command(command: Sequence[str], *, timeout: float, part: str) -> None:
    """Runs a command without input.

    Args:
        command: The program and its arguments.
        timeout: Seconds after which it is killed.
        part: What it is for, in the error.

    Raises:
        ImageBuildError: If it cannot be started, fails or takes too long; with the end of its output.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ImageBuildError(f"{part}: `{command[0]}` took more than {timeout:.0f} s") from None
    except OSError as error:
        raise ImageBuildError(f"{part}: {error}") from None
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ImageBuildError(f"{part}: `{command[0]}` exited with {done.returncode}\n{tail}")
