"""The Python of an environment with packages of its own: made once per node, and kept by what is in it."""

import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import workers
from cluster.cache import cache_dir
from cluster.errors import RunError
from cluster.pool.packages import index_options, run_uv
from sandbox_images.host import ImageBuildError, hold_lock
from workers.lanes.interpreter import OwnPython
from workers.settings import PackageLock

_READY = "kumite-ready"
"""A file that is written last: without it, the folder is one whose making was broken off."""


def ensure_python(lock: PackageLock, say: Callable[[str], None] = lambda line: None) -> OwnPython:
    """The Python with these packages, which is made where this node has none yet.

    Of several processes that ask at once, one makes it, and the others wait for it.

    Args:
        lock: The packages.
        say: Is called with what is going on.

    Raises:
        RunError: The packages cannot be installed here, in uv's own words.
    """
    folder = cache_dir() / "pythons" / _digest(lock)
    if not (folder / _READY).is_file():
        try:
            with hold_lock(f"python-{folder.name}"):
                if not (folder / _READY).is_file():
                    say("installing the environment's own packages")
                    _make(folder, lock)
        except ImageBuildError as error:
            raise RunError(f"environment.requirements: {error}") from error
        except OSError as error:
            raise RunError(
                f"environment.requirements: they cannot be installed in {folder}: {error}"
            ) from error
    return OwnPython(str(folder / "bin" / "python"), str(_code_folder()))


def _digest(lock: PackageLock) -> str:
    """Names what is in it: packages, Python and machine."""
    digest = hashlib.sha256(lock.requirements.encode())
    for name in sorted(lock.built):
        digest.update(name.encode() + lock.built[name])
    for fact in (sys.implementation.cache_tag, platform.machine(), os.path.realpath(sys.executable)):
        digest.update(f"\0{fact}".encode())
    return digest.hexdigest()[:20]


def _make(folder: Path, lock: PackageLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run(["venv", "--quiet", "--python", sys.executable, str(folder)])
    built = folder / "kumite-wheels"
    built.mkdir()
    for name, content in lock.built.items():
        (built / name).write_bytes(content)
    asked = folder / "kumite-requirements.txt"
    asked.write_text(_with_wheels(lock, built), encoding="utf-8")
    options = ["--quiet", "--python", str(folder / "bin" / "python")]
    if sys.dont_write_bytecode:  # or each process that imports them compiles them anew, which takes seconds
        options.append("--compile-bytecode")
    _run(["pip", "install", *options, *index_options(lock.wheels), "--requirements", str(asked)])
    (folder / _READY).write_text(f"{time.time():.0f}\n", encoding="utf-8")


def _with_wheels(lock: PackageLock, built: Path) -> str:
    """The lock with the wheels of folders where they are here."""
    text = lock.requirements
    for name in lock.built:
        distribution, version = name.split("-")[:2]
        text = text.replace(f"{distribution}=={version}", f"{distribution} @ {(built / name).as_uri()}")
    return text


def _run(arguments: list[str]) -> None:
    done = run_uv(arguments)
    if done.returncode != 0:
        raise RunError(
            f"environment.requirements: uv {' '.join(arguments[:2])} failed, and says:\n{done.stderr.strip()}"
        )


def _code_folder() -> Path:
    """A folder with links to our packages alone: beside them may be all that Kumite is installed with."""
    root = Path(workers.__file__).resolve().parent.parent
    folder = cache_dir() / "pythons" / f"code-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("workers", "sandbox_images"):
        link = folder / name
        if not link.is_symlink():
            temporary = folder / f".{name}-{os.getpid()}"
            temporary.symlink_to(root / name)
            temporary.replace(link)
    return folder
