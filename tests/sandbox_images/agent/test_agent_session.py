"""A session that an agent plays in: whatever the agent does to its folders, the session tells of it."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers.sandboxes import children, process_sandbox, process_settings
from workers.sandbox.base import Session, ToolsetSpec

TOOLSET = ToolsetSpec("agent-command", "sandbox_images.agent.toolset:AgentToolset")
WAITS = 5


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    """A workspace in which no agent was started yet."""
    async with process_sandbox(TOOLSET, process_settings(unsafe=True)) as sandbox:
        made = sandbox.session("agent")
        await made.open({"files": []})
        yield made


async def told(session: Session, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await session.call(tool, arguments)
    assert result.error is None, result.error
    return json.loads(result.content)


async def start(session: Session, program: str) -> None:
    await told(
        session, "start_agent", command=["sh", "-c", program], environment={}, files={}, as_they_are=[]
    )


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("rm -rf $HOME", None),
        ("chmod 0 $HOME", None),
        ("mv $HOME $HOME.old; touch $HOME", None),
        ("rm -rf $HOME; mkdir $HOME; echo made anew >$HOME/answer.txt", "made anew\n"),
        ("mkfifo $HOME/answer.txt", None),
        ("head -c 70000 /dev/zero >$HOME/answer.txt", None),
    ],
)
async def test_an_agent_that_changes_its_home_has_ended_like_any_other(
    session: Session, program: str, answer: str | None
) -> None:
    await start(session, program)
    ended = await told(session, "wait_agent", seconds=30.0)
    assert (ended["running"], ended["status"], ended["answer"]) == (False, 0, answer)
    assert (await told(session, "stop_agent"))["status"] == 0


async def test_looking_at_an_agent_takes_no_descriptors(session: Session) -> None:
    await start(session, "sleep 600")
    (process,) = children(int(session.sandbox.id.removeprefix("process-")))
    await told(session, "wait_agent", seconds=0.0)
    before = len(os.listdir(f"/proc/{process}/fd"))
    for _ in range(WAITS):
        assert (await told(session, "wait_agent", seconds=0.0))["running"]
    # After each answer the session looks at its files, with a descriptor for as long.
    assert len(os.listdir(f"/proc/{process}/fd")) < before + WAITS
