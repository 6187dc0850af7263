"""Submissions to the bundled shell tasks: what lazy, hostile and honest authors would leave in the workspace.

Each task has a file `shell_submissions/TASK.toml` with a list `submissions`, of which each has

- `name` and `solved`, what it is to be worth, and if that is nothing, `fails`, a hidden test that finds out;
- `start`: `files` (what the task begins with; the default), `oracle` (those as the oracle's file tools leave
  them) or `played` (all of the oracle's calls are played);
- `edits`: pairs of texts, of which the first is replaced by the second in the oracle's files;
- `files`: contents by path, and `run`: a command, which come after that; `message`: the last words.
"""

import asyncio
import base64
import itertools
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tests.helpers.shell import graded, output, ran
from workers.environments.shell.dataset import ShellTask, make_shell_task
from workers.sandbox.base import Sandbox, Scores, Session
from workers.sandbox.process import ProcessSandbox
from workers.settings import Settings

_FOLDER = Path(__file__).parent / "shell_submissions"
_numbers = itertools.count()
_left: dict[str, dict[str, dict[str, str]]] = {}


class Submission(Settings):
    """What an author leaves behind."""

    name: str
    solved: bool
    fails: str | None = None
    start: Literal["files", "oracle", "played"] = "files"
    edits: list[tuple[str, str]] = Field(default=[])
    files: dict[str, str] = Field(default={})
    run: str | None = None
    message: str = "I have done it."


def submissions(task: str) -> list[Submission]:
    """All submissions to a task."""
    found = tomllib.loads((_FOLDER / f"{task}.toml").read_text())["submissions"]
    return [Submission.model_validate(each) for each in found]


async def judged(sandbox: Sandbox, name: str, submission: Submission, whole: bool = True) -> Scores:
    """What a submission is worth, in a session of its own.

    Args:
        sandbox: Where.
        name: The task.
        submission: What is in the workspace.
        whole: Whether all hidden tests examine it, or, of a wrong one, only that which it is to fail.
    """
    task = make_shell_task(name, 0)
    files = {file["path"]: file for file in task.files}
    if submission.start == "oracle":
        files |= {path: {"path": path, "text": text} for path, text in _written_by_oracle(task).items()}
    if submission.start == "played" and isinstance(sandbox, ProcessSandbox):
        files |= await _left_by_oracle(sandbox, task)
    for before, after in submission.edits:
        holders = [path for path, file in files.items() if before in file.get("text", "")]
        assert holders, f"{name}, {submission.name}: no file has {before!r}"
        files |= {
            path: {**files[path], "text": files[path]["text"].replace(before, after)} for path in holders
        }
    files |= {path: {"path": path, "text": text} for path, text in submission.files.items()}
    session = sandbox.session(f"s{next(_numbers)}")
    await session.open({"files": list(files.values())})
    try:
        if submission.start == "played" and not isinstance(sandbox, ProcessSandbox):
            await _play(session, task)
        if submission.run is not None:
            said = await ran(session, submission.run)
            assert said.endswith("[exit code 0]"), f"{name}, {submission.name}: {said}"
        tests = task.tests if whole or submission.fails is None else _with_one(task.tests, submission.fails)
        return await graded(session, tests, expected=task.expected, seconds=60.0, output=submission.message)
    finally:
        await session.close()


def _with_one(tests: str, name: str) -> str:
    """The hidden tests, but for all others than one."""
    others = "[name for name in globals() if name.startswith('test_')]"
    return f"{tests}\nfor _other in {others}:\n    if _other != {name!r}:\n        del globals()[_other]\n"


async def _left_by_oracle(sandbox: Sandbox, task: ShellTask) -> dict[str, dict[str, str]]:
    """The workspace after the oracle's calls, which are played once: this machine's files can be read."""
    if task.name not in _left:
        session = sandbox.session(f"s{next(_numbers)}")
        await session.open({"files": task.files})
        folder = Path(await output(session, "pwd"))
        await _play(session, task)
        contents = await asyncio.to_thread(_read_all, folder)
        _left[task.name] = {
            str(path): {"path": str(path), "base64": base64.b64encode(content).decode()}
            for path, content in contents.items()
        }
        await session.close()
    return _left[task.name]


def _read_all(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def _play(session: Session, task: ShellTask) -> None:
    for call in task.solution.calls:
        result = await session.call(call.tool, call.arguments)
        assert result.error is None, result.error


def _written_by_oracle(task: ShellTask) -> dict[str, str]:
    files = {file["path"]: file["text"] for file in task.files if "text" in file}
    for call in task.solution.calls:
        given: dict[str, Any] = call.arguments
        if call.tool == "write_file":
            files[given["path"]] = given["content"]
        elif call.tool == "edit_file":
            files[given["path"]] = files[given["path"]].replace(given["old"], given["new"])
    return files
