"""Sessions of the shell toolset, and what tests ask of them."""

import itertools
from typing import Any

from workers.sandbox.base import Sandbox, Scores, Session, ToolsetSpec

_numbers = itertools.count()


def shell_toolset(**config: Any) -> ToolsetSpec:
    return ToolsetSpec("shell", "sandbox_images.shell.toolset:ShellToolset", config, session_users=True)


async def shell_session(sandbox: Sandbox, files: dict[str, str] | None = None) -> Session:
    """A session, opened with these files in its workspace."""
    session = sandbox.session(f"shell{next(_numbers)}")
    await session.open({"files": [{"path": path, "text": text} for path, text in (files or {}).items()]})
    return session


async def ran(session: Session, command: str, timeout: float | None = None, tool: str = "bash") -> str:
    """What a command gave; the test fails if it was refused."""
    arguments: dict[str, Any] = {"code" if tool == "python" else "command": command}
    if timeout is not None:
        arguments["timeout"] = timeout
    result = await session.call(tool, arguments)
    assert result.error is None, result.error
    return result.content


async def output(session: Session, command: str) -> str:
    """What a command printed that must have succeeded."""
    printed, _, status = (await ran(session, command)).rpartition("[")
    assert status == "exit code 0]", printed + status
    return printed.removesuffix("\n")


async def graded(
    session: Session, tests: str, expected: Any = None, seconds: float = 30.0, output: str | None = None
) -> Scores:
    return await session.evaluate(
        {"tests": tests, "expected": expected, "seconds": seconds, "output": output}
    )
