"""Where in an author's own code an exception was raised: the last frames outside Kumite, as text."""

import linecache
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(f"{_ROOT / package}/" for package in ("cluster", "workers", "sandbox_images"))
_LIBRARIES = tuple(
    dict.fromkeys(
        f"{path}/"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        for path in (sysconfig.get_path(name), str(Path(sysconfig.get_path(name)).resolve()))
    )
)
_installed: set[str] = set()
"""Where authors' code is among the libraries: files, and folders that end in `/`."""
_MOST_FRAMES = 6
_LONGEST = 4000


def add_own_code(module: ModuleType) -> None:
    """Says that a module is an author's own code, with all of its package, wherever it is installed."""
    package = sys.modules.get(module.__package__ or "", module)
    folders = [f"{path}/" for path in getattr(package, "__path__", ())]
    _installed.update(folders or [file for file in (getattr(module, "__file__", None),) if file])


def traceback_of(error: BaseException) -> str | None:
    """The last frames of an error that are outside Kumite: file, line, function, and the line of code.

    Where one error was raised from another, they are those of the first of them that has such frames, since
    that is where an author's code went wrong. Frames of libraries are kept below the author's own only.

    Returns:
        None where all of it happened in Kumite's own code, or in libraries that it called.
    """
    given: object = getattr(error, "trace", None)
    if isinstance(given, str) and given.strip():  # a toolset's, which its process has sent along
        return _bounded(given)
    for each in reversed(_causes(error)):
        given = getattr(each, "trace", None)
        if isinstance(given, str) and given.strip():
            return _bounded(given)
        frames = _frames(each.__traceback__)
        if frames:
            return _bounded("".join(traceback.format_list(frames[-_MOST_FRAMES:])))
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and those that it was raised from, the first of them last."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__
    return found


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    linecache.checkcache()
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_OURS)]
    own = next((index for index, frame in enumerate(frames) if _is_own(frame.filename)), None)
    return [] if own is None else frames[own:]


def _is_own(file: str) -> bool:
    """Whether a file is an author's: none of Python's, and none of an installed package but the author's."""
    if file in _installed or file.startswith(tuple(place for place in _installed if place.endswith("/"))):
        return True
    return not file.startswith((*_LIBRARIES, "<frozen")) and Path(file) != Path(sys.executable)


def _bounded(text: str) -> str:
    text = text.rstrip()
    if len(text) > _LONGEST:
        text = "…" + text[-_LONGEST:]
    return text.encode("utf-8", "replace").decode()
