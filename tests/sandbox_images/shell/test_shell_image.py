"""The shell toolset in its real image, a fresh container for every episode."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator

import docker
import pytest
import pytest_asyncio

from sandbox_images.build import build_image
from tests.helpers.cells import skip_without
from tests.helpers.engine_fixtures import engine
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.shell import graded, output, ran, shell_session, shell_toolset
from tests.helpers.submissions import judged, submissions
from workers.environments.shell.dataset import load_cards, make_shell_task
from workers.rollout_worker import RolloutWorker
from workers.sandbox.base import Owner, Session
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings

__all__ = ["engine"]

pytestmark = [pytest.mark.docker, pytest.mark.slow]
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


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["runc", "runsc"])
async def shells(
    request: pytest.FixtureRequest, image: str, engine: docker.DockerClient
) -> AsyncIterator[DockerSandbox]:
    skip_without(engine, request.param)
    settings = SandboxSettings(image=image, runtime=request.param, memory_mb=512, scratch_mb=64, pids=64)
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
    tasks = [make_shell_task(name, 0) for name in load_cards()]
    texts = [task.tests for task in tasks]
    texts += [str(text) for task in tasks for call in task.solution.calls for text in call.arguments.values()]
    lines = [line for text in texts for line in text.splitlines() if len(line) > 50]
    assert len(lines) > 200
    await session.call("write_file", {"path": "known.txt", "content": "a line that is in this file alone"})
    left_out = "--exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude=lines.txt"
    search = f"grep -rslF -f lines.txt / ~ {left_out} || true"  # some folders are closed to it
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
    assert (await output(session, "cd /opt/kumite/sandbox_images; echo *")).split() == [
        "__init__.py",
        "__pycache__",
        "shell",
        "tool_host",
    ]


def told_of_others(session: Session) -> set[str]:
    """What the kernel tells of a process to those who may not trace it: no memory, nothing to open."""
    return {"environ", "maps", "auxv", "fd"} if is_gvisor(session) else set()


def is_gvisor(session: Session) -> bool:
    return session.sandbox.settings.runtime == "runsc"


@in_one_container
async def test_submission_can_not_look_into_the_grader(session: Session) -> None:
    """Its memory, its descriptors, its environment: here, where it is not root's to look at."""
    spy = """
import ctypes, os
def spied(pid):
    seen = set()
    for name in ("environ", "maps", "auxv", "mem", "fd/3"):
        try:
            open(f"/proc/{pid}/{name}", "rb")
            seen.add(name)
        except OSError:
            pass
    try:
        seen.update(os.listdir(f"/proc/{pid}/fd") and ["fd"])
    except OSError:
        pass
    if pid != os.getpid() and ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:
        seen.add("traced")
    return list(seen)
"""
    await session.call("write_file", {"path": "spy.py", "content": spy})
    tests = f"""
def test_it_sees_nothing_of_the_grader(subject):
    seen = subject.evaluate("import os, spy\\nresult = spy.spied(os.getppid())")
    assert set(seen) <= {told_of_others(session)}, seen

def test_it_would_see_something_of_another(subject):
    assert {{"environ", "maps", "fd"}} <= set(
        subject.evaluate("import os, spy\\nresult = spy.spied(os.getpid())")
    )
"""
    scores = await graded(session, tests)
    assert scores.metrics["solved"] == 1.0, scores.details


@in_one_container
async def test_model_can_not_look_into_its_session(session: Session) -> None:
    for path in {"mem", "environ", "fd/3", "maps"} - told_of_others(session):
        assert re.search("Permission denied|No such", await ran(session, f"head -c 1 /proc/$PPID/{path}"))


KILL_EACH = "for process in /proc/[0-9]*; do kill -{} ${{process#/proc/}}; done"
ENDINGS = {
    "SIGKILL to its parent": "kill -9 $PPID",
    "SIGSTOP to its parent": "kill -STOP $PPID",
    "SIGKILL to all": "python3 -c 'import os; os.kill(-1, 9)'",
    "SIGKILL to each": KILL_EACH.format("KILL"),
    "SIGSTOP to each": KILL_EACH.format("STOP"),
    "SIGTERM to its group": "kill -15 -$PPID; kill -15 -$(cut -d' ' -f5 /proc/$PPID/stat)",
    "its limits": """python3 -c 'import os, resource
try:
    resource.prlimit(int(os.environ["PARENT"]), resource.RLIMIT_CPU, (1, 1))
finally:
    resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))'""",
    "its place in the queue of those to die": "echo 1000 >/proc/$PPID/oom_score_adj",
}


@in_one_container
@pytest.mark.parametrize("command", ENDINGS.values(), ids=ENDINGS)
async def test_model_can_not_end_its_session(session: Session, command: str) -> None:
    await session.call("write_file", {"path": "kept.txt", "content": "kept"})
    await ran(session, f"export PARENT=$PPID; {command}", timeout=2)
    assert await output(session, "cat kept.txt") == "kept"
    scores = await graded(session, "def test_it(subject):\n    assert subject.read('kept.txt') == 'kept'")
    assert scores.metrics["solved"] == 1.0, scores.details


@in_one_container
async def test_submission_can_not_end_its_session(session: Session) -> None:
    await session.call("write_file", {"path": "f.py", "content": "import os\nos.kill(os.getppid(), 9)"})
    scores = await graded(session, "def test_it(subject):\n    subject.evaluate('import f')")
    assert scores.metrics["solved"] == 0.0
    assert "PermissionError" in str(scores.details)


TRAPS = """
ln -s /proc/self/mem memory; ln -s /proc/self/fd/3 channel; ln -s / root; ln -s /etc/passwd users
mkfifo pipe; truncate -s 60M sparse; ln -s loop loop; mkdir -p a/b; ln -s ../../.. a/b/up
: >plain; mkdir bare
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')"
"""
OUT_OF_REACH = {
    "/proc/self/mem": "is outside the workspace",
    "/proc/self/environ": "is outside the workspace",
    "/proc/1/fd/1": "is outside the workspace",
    "../../../etc/passwd": "is outside the workspace",
    "a/../../tmp/x": "is outside the workspace",
    "memory": "is a symbolic link",
    "channel": "is a symbolic link",
    "users": "is a symbolic link",
    "loop": "is a symbolic link",
    "root/etc/passwd": "is a symbolic link",
    "a/b/up/etc/passwd": "is a symbolic link",
    "pipe": "is no regular file",
    "socket": "o such device|is no regular file",
    "plain/x": "is not a folder",
    "bare": "is a folder",
}


@in_one_container
async def test_file_tools_reach_nothing_but_plain_files_of_the_workspace(session: Session) -> None:
    """Each is asked for what a trap leads to; none hangs, follows it, or takes the session down."""
    await ran(session, TRAPS)
    for path, told in OUT_OF_REACH.items():
        for tool, more in {
            "read_file": {},
            "write_file": {"content": "x"},
            "edit_file": {"old": "a", "new": "b"},
        }.items():
            result = await session.call(tool, {"path": path, **more}, timeout=60)
            assert re.search(told, result.error or ""), (tool, path, result)
    for path in ("root", "a/b/up", "..", "/proc"):
        assert (await session.call("list_files", {"path": path})).error is not None
    assert "files up to 4,194,304 can be read" in (await session.call("read_file", {"path": "sparse"})).text
    listed = await session.call("list_files", {})
    assert {"memory  symbolic link", "pipe  no regular file"} <= set(listed.content.splitlines())
    assert json.dumps(await session.state())  # which looks at all of them too
    scores = await graded(session, "def test_it(subject):\n    subject.read('memory')")
    assert "symbolic link" in str(scores.details)


@in_one_container
async def test_memory_that_no_process_holds_is_bounded(session: Session) -> None:
    """System V segments outlive their maker: filled with them, a container would die and take its score."""
    if is_gvisor(session):
        pytest.skip("gVisor does not take the engine's limit on them")
    code = """
import ctypes, os
libc, made = ctypes.CDLL(None, use_errno=True), 0
while libc.shmget(0, 1 << 20, 0o1600) >= 0:
    made += 1
print(made, os.strerror(ctypes.get_errno()))
"""
    assert (await ran(session, code, tool="python")).startswith("16 No space left on device")


@in_one_container
async def test_fork_bomb_is_killed_and_the_shell_lives_on(session: Session) -> None:
    await ran(session, "a=1")
    assert "did not end within 1 s" in await ran(
        session, "bomb() { bomb | bomb & }; bomb; sleep 3600", timeout=1
    )
    gone = "echo $a; until set -- /proc/[0-9]*; [ $# -lt 9 ]; do sleep 0.05; done; echo gone"
    assert await output(session, gone) == "1\ngone"


@in_one_container
async def test_fork_bomb_does_not_keep_the_grader_from_its_work(session: Session) -> None:
    await ran(session, "bomb() { bomb | bomb & }; bomb; sleep 1")
    scores = await graded(
        session, "def test_it(subject):\n    assert subject.run('echo', 'ok').stdout == 'ok\\n'"
    )
    assert scores.metrics["solved"] == 1.0, scores.details


@in_one_container
async def test_memory_hog_dies_alone(session: Session) -> None:
    if is_gvisor(session):
        pytest.skip("it may have been told to leave the limits on memory alone")
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
    task = make_shell_task("write-merge-intervals", 0)
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


SAMPLE = [
    "find-file-by-digest",
    "fix-utf8-limits",
    "write-find-duplicates",
    "write-glob-match",
    "write-top-words",
]


@in_one_container
@pytest.mark.parametrize("task", SAMPLE)
async def test_right_and_wrong_submissions_are_told_apart(shells: DockerSandbox, task: str) -> None:
    for submission in submissions(task):
        scores = await judged(shells, task, submission, whole=submission.solved)
        assert scores.metrics["solved"] == float(submission.solved), (submission.name, scores.details)
