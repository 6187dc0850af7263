"""Nothing that code inside of a one-session sandbox does leads to another attempt, or costs anybody else."""

import asyncio
import re
import uuid
from typing import Any

import pytest
from aiohttp import web

from sandbox_images.build import build_image
from tests.helpers.hostile_programs import hostile_program, hostile_submission
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.sandboxes import LONG
from tests.helpers.shell import output, shell_session, shell_toolset
from workers.environments.shell import shell_env
from workers.environments.shell.dataset import make_shell_task
from workers.errors import SandboxError, SessionLost
from workers.records import EpisodeResult, EpisodeSpec
from workers.rollout_worker import RolloutWorker
from workers.sandbox.base import Owner, Session
from workers.sandbox.docker import DockerSandbox
from workers.settings import PolicyEndpoint, SandboxSettings

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TASK = "fix-pagination"
PROGRAMS = 10
"""In one episode: those of its calls, those that its calls leave running, and its submission."""
AT_ONCE = 5
SMALL = {"memory_mb": 192, "pids": 64, "scratch_mb": 32, "cpus": 0.5}
TESTS = """
def test_function(subject):
    code = "from pages import page_count\\nresult = page_count(10, 3)"
    assert subject.evaluate(code, cpu_seconds=2) == 4

def test_program(subject):
    assert subject.run("python3", "pages.py", cpu_seconds=2).status == 0
"""
"""Few, and short of patience: many a submission never answers."""
ODD_PATHS = ["pages.py", ".", "..", "fifo1", "loop1/pages.py", "d/d", "sparse1", "/proc/self/mem", "x" * 300]


class Policies(MockPolicy):
    """Plays each episode by the script whose number its first message ends with."""

    def __init__(self, scripts: dict[str, list[Reply]]) -> None:
        super().__init__()
        self._scripts = scripts

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        first = next(each["content"] for each in body["messages"] if each["role"] == "user")
        turn = sum(each["role"] == "assistant" for each in body["messages"])
        script = self._scripts[str(first).rpartition(" ")[2]]
        return self._answer(script[turn] if turn < len(script) else Reply("bye"), body)


def hostile_script(seed: str) -> list[Reply]:
    """A policy's turns: programs one after the other, programs all at once, odd files, a bad submission."""
    names = [f"{seed}/{number}" for number in range(PROGRAMS - 1)]
    alone, together = names[:3], names[3:]
    several = "\n".join(f"python3 -c {_quoted(hostile_program(name))} &" for name in together)
    calls: list[tuple[str, Any]] = [
        *(("python", {"code": hostile_program(name), "timeout": 1.0}) for name in alone),
        ("bash", {"command": f"export SHELL_PID=$$\n{several}\nsleep 1", "timeout": 1.5}),
        *(("read_file", {"path": path}) for path in ODD_PATHS),
        ("list_files", {}),
        ("write_file", {"path": "new/file.txt", "content": "x" * 100_000}),
    ]
    submission = ("write_file", {"path": "pages.py", "content": hostile_submission(f"{seed}/{PROGRAMS}")})
    return [
        Reply(None, calls),
        Reply(None, [("bash", {"command": "echo alive", "timeout": 1.0}), submission]),
    ]


def _quoted(code: str) -> str:
    return "'" + code.replace("'", "'\"'\"'") + "'"


def honest_script() -> list[Reply]:
    solution = make_shell_task(TASK, 0).solution
    return [Reply(None, [(call.tool, call.arguments)]) for call in solution.calls]


def numbered(row: dict[str, Any], name: str) -> EpisodeSpec:
    *before, last = row["prompt"]
    return spec({**row, "prompt": [*before, {**last, "content": f"{last['content']} {name}"}]})


def play(worker: RolloutWorker, names: list[str]) -> list[EpisodeResult]:
    row = rows(worker)[0]
    return played(worker, *(numbered(row, name) for name in names))


def play_hostile_episodes(seeds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plays them some at a time, each time with an honest episode beside them."""
    monkeypatch.setattr(
        shell_env,
        "make_shell_task",
        lambda *args: make_shell_task(*args).model_copy(update={"tests": TESTS}),
    )
    sandbox = {"backend": "docker", "image": build_image("shell"), **SMALL}
    scripts = {"honest": honest_script(), **{seed: hostile_script(seed) for seed in seeds}}
    args = {"tasks": [TASK]}
    with Policies(scripts) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=sandbox) as worker:
            for batch in _batches(seeds):
                honest, *hostile = play(worker, ["honest", *batch])
                for seed, result in zip(batch, hostile, strict=True):
                    assert_scored(result, seed)
                assert (honest.reward, honest.error_message) == (1.0, None), batch
            (again,) = play(worker, ["honest"])
            assert again.reward == 1.0


def _batches(seeds: list[str]) -> list[list[str]]:
    return [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]


def assert_scored(result: EpisodeResult, seed: str) -> None:
    said = [message.content for message in record(result).messages if message.role == "tool"]
    assert (result.status, result.failure, result.error_message) == ("finished", None, None), (seed, said)
    assert result.reward is not None and 0.0 <= result.reward <= 1.0
    assert set(result.metrics) == {"solved", "tests_passed", "session_ended"}


def test_hostile_policies_get_a_score_and_no_other_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    play_hostile_episodes([f"a{number}" for number in range(4 * AT_ONCE)], monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tenth", range(10))
def test_thousands_of_hostile_programs_get_a_score(tenth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play_hostile_episodes([f"b{tenth}.{number}" for number in range(50)], monkeypatch)


async def attack_neighbours(seeds: list[str]) -> None:
    """Hostile sessions in one container with an honest one, each session with users of its own."""
    settings = SandboxSettings(image=build_image("shell"), memory_mb=384, pids=128, scratch_mb=32)
    sandbox = DockerSandbox(shell_toolset(), settings, Owner("test-run", f"test-{uuid.uuid4().hex[:8]}"))
    await sandbox.start()
    try:
        neighbour = await shell_session(sandbox, {"mine.txt": "precious"})
        await output(neighbour, "kept=1")
        for batch in _batches(seeds):
            lost = await asyncio.gather(*(attack(sandbox, seed) for seed in batch))
            assert all(error is None or isinstance(error, SessionLost) for error in lost), (batch, lost)
            async with asyncio.timeout(LONG):
                assert isinstance(await sandbox.request("stats", 10), dict)
                assert await output(neighbour, "echo $kept; cat mine.txt") == "1\nprecious", batch
        assert await output(await shell_session(sandbox), "echo new") == "new"
    finally:
        await sandbox.stop()


async def attack(sandbox: DockerSandbox, seed: str) -> SandboxError | None:
    """Plays a hostile script in a session of its own; gives what that was lost to."""
    session: Session | None = None
    try:
        session = await shell_session(sandbox)
        for reply in hostile_script(seed):
            for tool, arguments in reply.tool_calls:
                assert isinstance(arguments, dict)
                await session.call(tool, arguments)
        await session.evaluate({"tests": TESTS, "expected": None, "seconds": 5, "output": None})
    except SandboxError as error:
        return error
    finally:
        if session is not None:
            await session.close()
    return None


async def test_hostile_sessions_leave_their_neighbour_and_the_tool_host_alone() -> None:
    await attack_neighbours([f"c{number}" for number in range(6)])


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tenth", range(10))
async def test_thousands_of_hostile_programs_leave_their_neighbour_alone(tenth: int) -> None:
    await attack_neighbours([f"d{tenth}.{number}" for number in range(30)])


def test_programs_are_the_same_for_the_same_seed_and_compile() -> None:
    programs = [hostile_program(seed) for seed in range(500)]
    assert programs == [hostile_program(seed) for seed in range(500)]
    for program in programs:
        compile(program, "<program>", "exec")
    assert len(set(programs)) > 490
    assert not any(re.search(r"(?<!\{)\{[a-z]+\}", program) for program in programs)
