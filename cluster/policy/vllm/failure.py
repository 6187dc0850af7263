"""Why a vLLM replica did not start: the one error, out of tracebacks and logs, that says so."""

import re
from pathlib import Path

_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit|Interrupt)\w*): ?(.*)$")
_ENGINE_PREFIX = re.compile(r"^\((?:EngineCore|Worker)\w* pid=\d+\) ERROR \S+ \S+ \[[^\]]*\] ?")
_FOLLOW_UP_ERRORS = ("Engine core initialization failed", "Worker proc initialization failed")
_NOISE_LINES = ("For further information visit", "^^^")
_MAX_REASON_LENGTH = 800
"""Characters of a reason; vLLM can print whole configs."""


def last_error(text: str) -> str:
    """The last error that a traceback names, with the lines that belong to it; else its last line."""
    lines = text.strip().splitlines()
    for start in range(len(lines) - 1, -1, -1):
        match = _ERROR_LINE.match(lines[start].strip())
        if match and not any(said in match[2] for said in _FOLLOW_UP_ERRORS):
            told = [f"{match[1]}: {match[2]}", *_following_lines(lines[start + 1 :])]
            return " ".join(told)[:_MAX_REASON_LENGTH]
    return lines[-1].strip()[:_MAX_REASON_LENGTH] if lines else "no reason given"


def engine_error(logs: Path, application: str) -> str | None:
    """What a replica's engine process died of, which only its log tells: the replica knows that it did.

    Args:
        logs: Ray's log folder, where this machine has it.
        application: Whose replica.
    """
    for path in sorted(logs.glob("worker-*"), key=lambda path: path.stat().st_mtime, reverse=True):
        text = path.read_text(errors="replace")
        if f":ServeReplica:{application}:" not in text:
            continue
        said = [_ENGINE_PREFIX.sub("", line) for line in text.splitlines() if _ENGINE_PREFIX.match(line)]
        if said:
            return last_error("\n".join(said))
    return None


def _following_lines(lines: list[str]) -> list[str]:
    told: list[str] = []
    for line in lines:
        text = line.strip()
        if not text or text.startswith(("Traceback", "The above exception", "During handling", "INFO ")):
            break
        if not any(noise in text for noise in _NOISE_LINES):
            told.append(text)
    return told
