"""Submissions to the bundled shell tasks: what lazy, hostile and honest authors would leave in the workspace.

Each task has a file `shell_submissions/TASK.toml` with a list `submissions`, of which each has

- `name` and `solved`, what it is to be worth;
- `start`: `files` (what the task begins with; the default), `oracle` (those as the oracle's file tools leave
  them) or `played` (all of the oracle's calls are played);
- `edits`: pairs of texts, of which the first is replaced by the second in the oracle's files;
- `files`: contents by path, and `run`: a command, which come after that; `message`: the last words.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from tests.helpers.shell import graded, ran
from workers.environments.shell_dataset import ShellTask, shell_task
from workers.sandbox.base import Sandbox, Scores
from workers.settings import Settings

_FOLDER = Path(__file__).parent / "shell_submissions"


class Submission(Settings):
    """What an author leaves behind."""

    name: str
    solved: bool
    start: Literal["files", "oracle", "played"] = "files"
    edits: list[tuple[str, str]] = []
    files: dict[str, str] = {}
    run: str | None = None
    message: str = "I have done it."


def submissions(task: str) -> list[Submission]:
    """All submissions to a task."""
    found = tomllib.loads((_FOLDER / f"{task}.toml").read_text())["submissions"]
    return [Submission.model_validate(each) for each in found]


async def judged(sandbox: Sandbox, name: str, submission: Submission) -> Scores:
    """What a submission is worth, in a session of its own."""
    task = shell_task(name, 0)
    files = {file["path"]: file for file in task.files}
    if submission.start == "oracle":
        files |= {path: {"path": path, "text": text} for path, text in _left_by_oracle(task).items()}
    for before, after in submission.edits:
        holders = [path for path, file in files.items() if before in file.get("text", "")]
        assert holders, f"{name}, {submission.name}: no file has {before!r}"
        files |= {path: {**files[path], "text": files[path]["text"].replace(before, after)} for path in holders}
    files |= {path: {"path": path, "text": text} for path, text in submission.files.items()}
    session = sandbox.session(f"{name}: {submission.name}")
    await session.open({"files": list(files.values())})
    try:
        for call in task.solution.calls if submission.start == "played" else []:
            await session.call(call.tool, call.arguments)
        if submission.run is not None:
            said = await ran(session, submission.run)
            assert said.endswith("[exit code 0]"), f"{name}, {submission.name}: {said}"
        return await graded(
            session, task.tests, expected=task.expected, seconds=60.0, output=submission.message
        )
    finally:
        await session.close()


def _left_by_oracle(task: ShellTask) -> dict[str, str]:
    files = {file["path"]: file["text"] for file in task.files if "text" in file}
    for call in task.solution.calls:
        given: dict[str, Any] = call.arguments
        if call.tool == "write_file":
            files[given["path"]] = given["content"]
        elif call.tool == "edit_file":
            files[given["path"]] = files[given["path"]].replace(given["old"], given["new"])
    return files
