"""The shell toolset in its real image, a fresh container for every episode."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from sandbox_images.build import build_image
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.shell import graded, output, ran, shell_session, shell_toolset
from workers.environments.shell_dataset import cards, shell_task
from workers.rollout_worker import RolloutWorker
from workers.sandbox.base import Owner, Session
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings

pytestmark = pytest.mark.docker
in_one_container = pytest.mark.asyncio(loop_scope="module")

HANDFUL = [
    "find-effective-port",
    "find-first-failure",
    "fix-backup-script",
    "write-csv-join",
    "write-top-words",
]


@pytest.fixture(scope="module")
def image() -> str:
    return build_image("shell")


@pytest.fixture(scope="module")
def worker(image: str) -> Iterator[RolloutWorker]:
    sandbox = {"backend": "docker", "image": image, "memory_mb": 512, "scratch_mb": 64}
    with rollout_worker("shell", args={"tasks": HANDFUL}, sandbox=sandbox) as worker:
        yield worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shells(image: str) -> AsyncIterator[DockerSandbox]:
    settings = SandboxSettings(image=image, memory_mb=512, scratch_mb=64, pids=64)
    sandbox = DockerSandbox(shell_toolset(), settings, Owner("test-run", f"test-{uuid.uuid4().hex[:8]}"))
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def test_oracles_solve_their_tasks_each_in_a_container_of_its_own(worker: RolloutWorker) -> None:
    results = played(worker, *(spec(row) for row in rows(worker)))
    assert [(result.reward, result.error_message) for result in results] == [(1.0, None)] * len(HANDFUL)
    assert len({record(result).sandbox_id for result in results}) == len(HANDFUL)


@in_one_container
async def test_hidden_tests_and_solutions_are_nowhere_in_the_container(session: Session) -> None:
    """Looks for lines of them in every file, before the policy's last turn."""
    tasks = [shell_task(name, 0) for name in cards()]
    texts = [task.tests for task in tasks]
    texts += [str(text) for task in tasks for call in task.solution.calls for text in call.arguments.values()]
    lines = [line for text in texts for line in text.splitlines() if len(line) > 50]
    assert len(lines) > 200
    await session.call("write_file", {"path": "known.txt", "content": "a line that is in this file alone"})
    left_out = "--exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude=lines.txt"
    search = f"grep -rslF -f lines.txt / {left_out} || true"  # some folders are closed to it
    await session.call("write_file", {"path": "lines.txt", "content": "a line that is in this file alone\n"})
    assert (await output(session, search)).endswith("/workspace/known.txt")
    await session.call("write_file", {"path": "lines.txt", "content": "\n".join(lines) + "\n"})
    assert await output(session, search) == ""


@in_one_container
async def test_image_has_no_task_in_it(session: Session) -> None:
    assert (
        await output(
            session, "find / -xdev -name '*shell_tasks*' -o -xdev -name solution.toml 2>/dev/null || true"
        )
        == ""
    )
    assert (await output(session, "ls /opt/kumite/sandbox_images")).split() == [
        "__init__.py",
        "__pycache__",
        "shell",
        "tool_host",
    ]


@in_one_container
async def test_submission_can_not_look_into_the_grader(session: Session) -> None:
    """Its memory, its descriptors, its environment: here, where it is not root's to look at."""
    spy = """
import ctypes, os
def spied(pid):
    seen = []
    for name in ("environ", "maps", "auxv"):
        try:
            seen.append(open(f"/proc/{pid}/{name}", "rb").read(1000))
        except OSError:
            pass
    try:
        seen += os.listdir(f"/proc/{pid}/fd")
        seen.append(open(f"/proc/{pid}/mem", "rb"))
    except OSError:
        pass
    if pid != os.getpid() and ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:
        seen.append("traced")
    return len(seen)
"""
    await session.call("write_file", {"path": "spy.py", "content": spy})
    tests = """
def test_it_sees_nothing_of_the_grader(subject):
    assert subject.evaluate("import os, spy\\nresult = spy.spied(os.getppid())") == 0

def test_it_would_see_something_of_another(subject):
    assert subject.evaluate("import os, spy\\nresult = spy.spied(os.getpid())") > 0
"""
    scores = await graded(session, tests)
    assert scores.metrics["solved"] == 1.0, scores.details


@in_one_container
async def test_model_can_not_look_into_its_session(session: Session) -> None:
    for path in ("mem", "environ", "fd/3", "maps"):
        assert "Permission denied" in await ran(session, f"head -c 1 /proc/$PPID/{path}")


@in_one_container
async def test_fork_bomb_is_killed_and_the_shell_lives_on(session: Session) -> None:
    await ran(session, "a=1")
    assert "did not end within 1 s" in await ran(
        session, "bomb() { bomb | bomb & }; bomb; sleep 3600", timeout=1
    )
    assert await output(session, "echo $a; ls /proc | grep -c '^[0-9]'") in {
        f"1\n{count}" for count in range(4, 9)
    }


@in_one_container
async def test_fork_bomb_does_not_keep_the_grader_from_its_work(session: Session) -> None:
    await ran(session, "bomb() { bomb | bomb & }; bomb; sleep 1")
    scores = await graded(
        session, "def test_it(subject):\n    assert subject.run('echo', 'ok').stdout == 'ok\\n'"
    )
    assert scores.metrics["solved"] == 1.0, scores.details


@in_one_container
async def test_memory_hog_dies_alone(session: Session) -> None:
    told = await ran(session, "python3 -c 'x = bytearray(2 << 30)'", timeout=60)
    assert "Killed" in told or "MemoryError" in told
    assert await output(session, "echo alive") == "alive"


@in_one_container
async def test_full_disk_is_told(session: Session) -> None:
    assert "No space left" in await ran(session, "head -c 40M /dev/zero >big; head -c 40M /dev/zero >big2")
    result = await session.call("write_file", {"path": "new.txt", "content": "x" * 100_000})
    assert result.error == "new.txt can't be written: the disk is full"
    assert await output(session, "rm big big2; echo fine") == "fine"


@in_one_container
async def test_file_over_the_limit_is_told(session: Session) -> None:
    assert "File too large" in await ran(
        session, 'ulimit -f 1; python3 -c \'open("f", "wb").write(bytes(9999))\''
    )


@in_one_container
async def test_submission_finds_no_test_while_it_is_tested(session: Session) -> None:
    cheat = """
import os
def merge(intervals):
    name = "test_overlapping" + "_intervals"
    if not os.path.exists("searched"):
        os.system(f"grep -rls {name} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev >searched")
    os._exit(0)
"""
    await session.call("write_file", {"path": "intervals.py", "content": cheat})
    task = shell_task("write-merge-intervals", 0)
    assert "test_overlapping_intervals" in task.tests
    scores = await graded(session, task.tests)
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.0}
    assert await output(session, "cat searched") == ""


@in_one_container
async def test_sessions_of_a_container_end_with_it(shells: DockerSandbox) -> None:
    session = await shell_session(shells)
    await ran(session, "setsid sleep 3600 &")
    await session.close()
    other = await shell_session(shells)
    assert await output(other, "grep -l sleep /proc/[0-9]*/comm || echo none") == "none"
