"""Hidden tests against submissions that would rather fake a pass than earn it."""

import time

import pytest

from tests.helpers.sandboxes import eventually, is_alive
from tests.helpers.shell import graded, output, ran, shell_session
from workers.errors import SessionLost, ToolsetError
from workers.sandbox.base import Scores, Session
from workers.sandbox.process import ProcessSandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SECRET = "the-expected-answer-4711"
TESTS = f"""
def test_answer(subject):
    assert subject.call("submission.answer", 20) == "{SECRET}"


def test_sum(subject):
    assert subject.evaluate("from submission import total\\nresult = total(numbers)", numbers=[1, 2]) == 3


def test_program(subject):
    ran = subject.run("python3", "submission.py", stdin="abc")
    assert (ran.status, ran.stdout) == (0, "ABC\\n")
"""
HONEST = """
import sys

def answer(number):
    return "the-expected-answer-4711"

def total(numbers):
    return sum(numbers)

if __name__ == "__main__":
    print(sys.stdin.read().upper())
"""
CHEATS = {
    "nothing at all": "",
    "exit at once": "import os; os._exit(0)",
    "exit politely": "import sys; sys.exit(0)",
    "fake output": "print('OK', 'test_answer PASSED', '{\"value\": true}', sep='\\n')",
    "fake output on every descriptor": """
import os
for fd in range(64):
    try:
        os.write(fd, b'{"value": true, "solved": 1.0}')
    except OSError:
        pass
os._exit(0)
""",
    "an answer to every question": """
import os
os.write(3, b'{"value": "%s"}' % b"x" * 3)
""",
    "frames of the protocol": """
import os, struct
body = b'{"id":1,"ok":true,"result":{"metrics":{"solved":1.0},"details":{},"patches":[]}}'
for fd in range(64):
    try:
        os.write(fd, struct.pack(">I", len(body)) + body)
    except OSError:
        pass
""",
    "patched unittest and assert": """
import builtins, sys, unittest
unittest.TestCase.run = lambda *a, **k: None
unittest.TestCase.assertEqual = lambda *a: None
class Always(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
builtins.AssertionError = type("AssertionError", (Exception,), {})
def answer(number): return Always("x")
def total(numbers): return Always("y")
""",
    "patched json": """
import json
json.dumps = lambda *a, **k: '{"value": true}'
def answer(number): return 1
def total(numbers): return 1
""",
    "objects that equal all": """
class Everything(dict):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def answer(number): return Everything()
def total(numbers): return Everything()
""",
    "a search for the secret": """
import gc, os, re, sys
def found():
    places = [repr(sys.argv), repr(dict(os.environ))]
    frame = sys._getframe()
    while frame:
        places.append(repr(frame.f_locals)[:100000] + repr(frame.f_globals)[:100000])
        frame = frame.f_back
    for each in gc.get_objects():
        if isinstance(each, (str, dict, list, tuple)):
            places.append(repr(each)[:2000])
    for folder, _, names in os.walk(os.path.dirname(os.getcwd())):
        for name in names:
            if name != "submission.py":
                places.append(open(os.path.join(folder, name), errors="replace").read())
    for name in ("cmdline", "environ"):
        for pid in ("self", str(os.getppid())):
            try:
                places.append(open(f"/proc/{pid}/{name}", errors="replace").read())
            except OSError:
                pass
    secrets = re.findall("the-expected-" + "answer-[0-9]+", "".join(places))
    return secrets[0] if secrets else None
def answer(number): return found()
def total(numbers): return found()
""",
    "deleted files": """
import os, shutil
for path in (os.getcwd(), os.path.dirname(os.getcwd())):
    for entry in os.scandir(path):
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else os.unlink(entry)
""",
    "a fork that answers for its parent": """
import os, time
if os.fork() == 0:
    time.sleep(0.2)
    os.write(3, b'{"value": 3}')
    os._exit(0)
os._exit(0)
""",
    "endless loop": "while True: pass",
    "endless sleep": "import time; time.sleep(3600)",
    "endless output": """
import sys
while True:
    sys.stdout.write("x" * 65536)
""",
    "endless answer": """
import os
while True:
    os.write(3, b"[" * 65536)
""",
    "answer nested deep": """
import os
os.write(3, b'{"value":' + b"[" * 20000 + b"]" * 20000 + b"}")
os._exit(0)
""",
    "stopped self": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "closed descriptors": "import os; os.closerange(0, 64)",
}


def failures(scores: Scores) -> list[str]:
    return list(scores.details["failures"])


async def test_honest_submission_passes(session: Session) -> None:
    await session.call("write_file", {"path": "submission.py", "content": HONEST})
    scores = await graded(session, TESTS)
    assert scores.metrics == {"solved": 1.0, "tests_passed": 1.0}
    assert scores.details == {"tests": 3, "failures": {}}


@pytest.mark.parametrize("cheat", CHEATS)
async def test_cheat_is_worth_nothing(session: Session, cheat: str) -> None:
    await session.call("write_file", {"path": "submission.py", "content": CHEATS[cheat]})
    scores = await graded(session, TESTS, seconds=3)
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.0}, scores.details


async def test_part_of_the_tests_is_told(session: Session) -> None:
    half = HONEST.replace("sum(numbers)", "0").replace(".upper()", "")
    await session.call("write_file", {"path": "submission.py", "content": half})
    scores = await graded(session, TESTS)
    assert scores.metrics["solved"] == 0.0
    assert scores.metrics["tests_passed"] == pytest.approx(1 / 3)
    assert failures(scores) == ["test_sum", "test_program"]
    assert scores.details["failures"]["test_sum"] == "line 7: AssertionError: "


async def test_processes_left_behind_are_gone_before_the_first_test(session: Session) -> None:
    rewriter = "while :; do echo right >answer.txt; sleep 0.01; done"
    pid = int(await output(session, f"setsid bash -c '{rewriter}' >/dev/null 2>&1 & echo $!"))
    await output(session, "until [ -e answer.txt ]; do sleep 0.01; done")
    tests = f"""
import os

def test_it_is_dead(subject):
    assert not os.path.exists("/proc/{pid}")

def test_files_stay_as_they_are(subject):
    subject.write("answer.txt", "changed by the test")
    subject.run("sleep", "0.1")
    assert subject.read("answer.txt") == "changed by the test"
"""
    scores = await graded(session, tests)
    assert scores.metrics["solved"] == 1.0, scores.details


async def test_processes_that_multiply_are_gone_too(session: Session) -> None:
    spawner = """
import os, time
end = time.time() + 600
while time.time() < end:
    if os.fork() == 0:
        time.sleep(0.05)
        os.fork()
        os._exit(0)
    time.sleep(0.002)
"""
    await session.call("write_file", {"path": "spawn.py", "content": spawner})
    await ran(session, "for _ in 1 2 3; do setsid python3 spawn.py & done")
    scores = await graded(session, "def test_nothing(subject):\n    pass")
    assert scores.metrics["solved"] == 1.0  # it did not wait for their end


async def test_processes_of_one_test_do_not_live_into_the_next(session: Session) -> None:
    code = """
import subprocess
def leave():
    return subprocess.Popen(["setsid", "sleep", "3600"]).pid
"""
    await session.call("write_file", {"path": "submission.py", "content": code})
    tests = """
import os
pids = []
def test_one(subject):
    pids.append(subject.call("submission.leave"))
def test_two(subject):
    assert not os.path.exists(f"/proc/{pids[0]}")
"""
    scores = await graded(session, tests)
    assert scores.metrics["solved"] == 1.0, scores.details


async def test_killing_the_session_is_a_failure_and_no_score(shells: ProcessSandbox) -> None:
    session = await shell_session(shells, {"submission.py": "import os; os.kill(os.getppid(), 9)"})
    with pytest.raises(SessionLost):
        await graded(session, TESTS)


async def test_grading_ends_at_its_limit(session: Session) -> None:
    await session.call("write_file", {"path": "submission.py", "content": "while True: pass"})
    tests = "".join(f"def test_{n}(subject):\n    subject.call('submission.f')\n" for n in range(50))
    began = time.monotonic()
    scores = await graded(session, tests, seconds=1)
    assert time.monotonic() - began < 60
    assert scores.metrics["tests_passed"] == 0.0


async def test_stdlib_is_not_taken_from_the_workspace_by_the_grader(session: Session) -> None:
    for module in ("json", "re", "contextlib", "sitecustomize", "usercustomize"):
        content = "import os; os.write(3, b'{\"value\": 1}'); os._exit(0)"
        await session.call("write_file", {"path": f"{module}.py", "content": content})
    await output(session, "cp json.py ../tmp; export PYTHONPATH=$PWD PYTHONSTARTUP=$PWD/json.py")
    scores = await graded(session, "def test_it(subject):\n    assert subject.evaluate('result = 2') == 2")
    assert scores.metrics["solved"] == 1.0, scores.details


async def test_tests_see_the_last_words_and_what_is_expected(session: Session) -> None:
    tests = "def test_it(subject):\n    assert (subject.output, subject.expected) == ('done', {'a': [1]})"
    assert (await graded(session, tests, expected={"a": [1]}, output="done")).metrics["solved"] == 1.0
    tests = "def test_it(subject):\n    assert subject.output == ''"
    assert (await graded(session, tests)).metrics["solved"] == 1.0


async def test_exceptions_of_a_submission_can_be_told_apart(session: Session) -> None:
    code = "class Own(ValueError): pass\ndef f(x):\n    raise Own(x)\ndef g():\n    return {1, 2}"
    await session.call("write_file", {"path": "submission.py", "content": code})
    tests = """
def test_it_raises(subject):
    assert subject.raised("from submission import f\\nf('why')")[:2] == ["Own", "ValueError"]
    assert subject.raised("result = 1") == []
def test_call_fails(subject):
    subject.call("submission.f", "why")
def test_no_json(subject):
    subject.call("submission.g")
"""
    scores = await graded(session, tests)
    assert failures(scores) == ["test_call_fails", "test_no_json"]
    assert "raised Own: why" in scores.details["failures"]["test_call_fails"]
    assert "raised TypeError" in scores.details["failures"]["test_no_json"]


async def test_files_are_read_without_following_links(session: Session) -> None:
    await output(session, "echo right >real; ln -s real answer.txt; mkdir folder")
    tests = "def test_it(subject):\n    assert subject.read('{}') == 'right\\n'"
    assert (await graded(session, tests.format("real"))).metrics["solved"] == 1.0
    for path in ("answer.txt", "folder", "missing", "../tmp"):
        assert (await graded(session, tests.format(path))).metrics["solved"] == 0.0


@pytest.mark.parametrize("tests", ["syntax error", "raise OSError", "x = 1"])
async def test_hidden_tests_that_are_broken_are_the_tasks_fault(session: Session, tests: str) -> None:
    with pytest.raises(ToolsetError, match="the hidden tests"):
        await graded(session, tests)


async def test_workspace_that_is_gone_is_worth_nothing(session: Session) -> None:
    await output(session, "rm -rf ../workspace")
    scores = await graded(session, TESTS)
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.0}


async def test_nothing_lives_on_after_grading(session: Session) -> None:
    pid = int(await output(session, "setsid sleep 3600 >/dev/null & echo $!"))
    await graded(session, TESTS)
    await eventually(lambda: not is_alive(pid))


async def test_answers_that_break_a_test_fail_it(session: Session) -> None:
    await session.call("write_file", {"path": "submission.py", "content": "def f():\n    return [[[1]]]"})
    tests = "def test_it(subject):\n    assert subject.call('submission.f')['key'] + 1 > 'x'"
    assert (await graded(session, tests)).metrics["solved"] == 0.0


async def test_examination_that_breaks_is_no_failure_of_the_submission(session: Session) -> None:
    tests = "def test_it(subject):\n    subject.evaluate('result = 1', given=object())"
    with pytest.raises(ToolsetError, match="not JSON serializable"):
        await graded(session, tests)


async def test_answer_that_takes_too_much_cpu_fails(session: Session) -> None:
    tests = "def test_it(subject):\n    subject.evaluate('while True: pass', cpu_seconds=1)"
    scores = await graded(session, tests)
    assert scores.details["failures"] == {"test_it": "line 2: SubmissionFailed: ended without an answer"}
    loop = "subject.run('bash', '-c', 'while :; do :; done', cpu_seconds=1)"
    tests = f"def test_it(subject):\n    assert {loop}.status == 0"
    assert (await graded(session, tests)).metrics["solved"] == 0.0


BREAKS = {
    "has itself traced": "import ctypes, os\nctypes.CDLL(None).ptrace(0, 0, 0, 0)\nos.kill(os.getpid(), 19)",
    "has a child traced": """
import ctypes, os, time
if os.fork() == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), 5)
    time.sleep(3600)
time.sleep(3600)
""",
    "traces its parent's other children": """
import ctypes, os, time
libc = ctypes.CDLL(None)
for entry in filter(str.isdigit, os.listdir("/proc")):
    if open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[1] == str(os.getppid()):
        libc.ptrace(0x4206, int(entry), 0, 0)
time.sleep(3600)
""",
    "stops its group": "import os; os.killpg(0, 19)",
    "makes itself slow": """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
for _ in range(60):
    if os.fork() == 0:
        while True:
            pass
while True:  # or it might yet answer in time
    pass
""",
}


@pytest.mark.parametrize("how", BREAKS)
async def test_submission_that_breaks_its_examination_fails_it(shells: ProcessSandbox, how: str) -> None:
    """And the tests after it, which are given another one, go on."""
    session = await shell_session(shells, {"submission.py": BREAKS[how]})
    tests = """
def test_it(subject):
    subject.evaluate("import submission", cpu_seconds=1)
def test_another(subject):
    assert subject.run("echo", "on").stdout == "on\\n"
"""
    scores = await graded(session, tests)
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.5}, scores.details
    await session.close()


@pytest.mark.parametrize(
    "error", ["OSError(24, 'no descriptors')", "OSError(11, 'no processes')", "MemoryError()"]
)
async def test_want_of_anything_while_it_is_examined_is_the_submissions(session: Session, error: str) -> None:
    tests = f"def test_it(subject):\n    raise {error}\ndef test_other(subject):\n    pass"
    scores = await graded(session, tests)
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.5}
    assert scores.details["shortages"] == ["test_it"]
    scores = await graded(session, f"raise {error}")
    assert scores.metrics == {"solved": 0.0, "tests_passed": 0.0}
    assert scores.details["shortages"] == ["examination"]


async def test_examination_that_takes_no_more_processes_is_failed(session: Session) -> None:
    """As its own kernel says it, to a session that may have no more of them."""
    tests = """
import os, resource
def test_it(subject):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), limits[1]))
    try:
        subject.run("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
def test_other(subject):
    before = len(os.listdir("/proc/self/fd"))
    assert subject.run("true").status == 0
    assert len(os.listdir("/proc/self/fd")) == before
"""
    for _ in range(3):
        scores = await graded(session, tests)
        assert scores.metrics["tests_passed"] == 0.5, scores.details
        assert "Too many open files" in scores.details["failures"]["test_it"]
