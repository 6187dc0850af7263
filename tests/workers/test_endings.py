"""Each way in which an episode can end is brought about, and its record held to the table in the docs."""

import importlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import AttemptsConfig
from sandbox_images.build import build_image
from tests.helpers import breaking_shell, run_containers
from tests.helpers.dummy_episodes import ENVIRONMENT, one, put, task, turn
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec, usual_pool
from workers.endings import ENDINGS, RETRIED_FAILURES, ZERO_SCORE, EpisodeEnding, EpisodeOutcome
from workers.environments.shell import shell_env
from workers.records import EpisodeResult
from workers.sandbox import base, connection, process
from workers.settings import PolicyEndpoint

pytestmark = pytest.mark.slow

Proof = Callable[[pytest.MonkeyPatch], EpisodeResult]
PROOFS: dict[str, Proof] = {}
_AGENTS = "tests.workers.agents.test_agent_episodes"
PROVEN_ELSEWHERE = {
    "agent-ends": (_AGENTS, "test_one_that_goes_on_after_its_limit_is_killed_with_all_its_children"),
    "agent-harmed": (_AGENTS, "test_an_agent_cannot_have_its_failed_episode_thrown_away"),
    "agent-without-calls": (_AGENTS, "test_one_that_makes_no_call_is_told_why_with_its_last_output"),
    "engine-gone": (
        "tests.faults.test_restart",
        "test_engine_that_is_restarted_under_load_costs_what_was_in_it_and_serves_again",
    ),
    "no-sandbox": ("tests.workers.test_episode", "test_sandbox_that_does_not_come_up_is_on_record"),
    "version-gone": (
        "tests.workers.policy.test_versions",
        "test_an_episode_whose_version_has_gone_is_to_be_played_again",
    ),
    "worker-dies": (
        "tests.cluster.test_coordinator",
        "test_an_episode_that_kills_its_worker_each_time_is_recorded_as_failed",
    ),
    "node-lost": (
        "tests.cluster.test_coordinator",
        "test_an_episode_under_which_nodes_are_lost_is_played_on",
    ),
}
"""Endings that take a cluster, an engine or an agent of one's own, and the tests that bring them about."""
IN_A_CONTAINER = {"memory", "ended-from-outside"}

ALONE = {"recycle": "episode", "unsafe": True}
WRITTEN = Reply(None, [("write_file", {"path": "pages.py", "content": "def page_count(a, b): return 1\n"})])


def proof(name: str) -> Callable[[Proof], Proof]:
    def note(function: Proof) -> Proof:
        PROOFS[name] = function
        return function

    return note


def in_shell(
    *script: Reply | Fault,
    task: str = "fix-pagination",
    sandbox: dict[str, Any] = ALONE,
    meanwhile: Callable[[], None] | None = None,
    default: str = "bye",
    **args: Any,
) -> EpisodeResult:
    """One episode, by a policy that says these things."""
    with MockPolicy(*script, default=Reply(default)) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker(
            "shell", args={"tasks": [task], **args}, policy=endpoint, sandbox=sandbox
        ) as worker:
            beside = threading.Thread(target=meanwhile or (lambda: None))
            beside.start()
            (result,) = played(worker, spec(rows(worker)[0]))
            beside.join()
    return result


def breaking(monkeypatch: pytest.MonkeyPatch, toolset: str = breaking_shell.PATH) -> None:
    """Has the shell environment's sessions break when they are told to."""
    spec = base.ToolsetSpec
    monkeypatch.setattr(shell_env, "ToolsetSpec", lambda **fields: spec(**{**fields, "toolset": toolset}))


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits a second for what should have been answered by itself."""
    monkeypatch.setattr(shell_env, "_CLEANING_UP", 1.0)
    for module in (connection, process):
        monkeypatch.setattr(module, "GRACE", 1.0)


def said(result: EpisodeResult) -> list[str]:
    return [message.content or "" for message in record(result).messages if message.role == "tool"]


def bash(command: str, **arguments: Any) -> Reply:
    return Reply(None, [("bash", {"command": command, **arguments})])


@proof("last-words")
def last_words(_: pytest.MonkeyPatch) -> EpisodeResult:
    result = in_shell(task="find-effective-port", default="10065")
    assert result.reward == 1.0
    return result


@proof("turns-over")
def turns_over(_: pytest.MonkeyPatch) -> EpisodeResult:
    result = in_shell(bash("true"), bash("true"), bash("true"), max_turns=2)
    assert record(result).stop_reason == "max_turns_reached"
    return result


@proof("prompt-outgrown")
def prompt_outgrown(_: pytest.MonkeyPatch) -> EpisodeResult:
    too_long = Fault(status=400, message="this model's maximum context length is 8192 tokens")
    result = in_shell(WRITTEN, too_long)
    assert (record(result).stop_reason, record(result).is_truncated) == ("prompt_too_long", True)
    return result


@proof("tools-time-over")
def tools_time_over(_: pytest.MonkeyPatch) -> EpisodeResult:
    result = in_shell(bash("sleep 1.5"), bash("true"), tools_timeout=1.0)
    assert "the time for tools is over" in said(result)[0]
    return result


@proof("call-fails")
def call_fails(_: pytest.MonkeyPatch) -> EpisodeResult:
    """In a session with hardly any memory of its own, too."""
    fails: list[tuple[str, Any]] = [
        ("bash", "{not json"),
        ("bash", {"command": "sleep 3600", "timeout": 0.2}),
        ("bash", {"command": "yes | head -c 4000000 >large"}),
        ("read_file", {"path": "large"}),
        ("write_file", {"path": "x" * 300_000, "content": ""}),
    ]
    limits = {"address_space_mb": 128}
    result = in_shell(Reply(None, fails), bash("echo on"), sandbox={**ALONE, "session_limits": limits})
    assert said(result)[-1] == "on\n[exit code 0]"
    return result


@proof("workspace-untold")
def workspace_untold(_: pytest.MonkeyPatch) -> EpisodeResult:
    names = """
import os
for _ in range(31):
    os.mkdir("\\1" * 255)
    os.chdir("\\1" * 255)
for number in range(170):
    open(f"{number:03}" + "\\1" * 252, "w").close()
"""
    move = ("bash", {"command": "mv $'\\1'* b || mv b $'\\1\\1'"})
    result = in_shell(Reply(None, [("python", {"code": names}), *[move] * 16]))
    assert {step.state_patch for step in record(result).steps} == {None}
    return result


@proof("examination-broken")
def examination_broken(_: pytest.MonkeyPatch) -> EpisodeResult:
    traced = "import ctypes, os, signal; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19)"
    result = in_shell(Reply(None, [("write_file", {"path": "pages.py", "content": traced})]))
    assert result.metrics == {"solved": 0.0, "tests_passed": 0.0, "session_ended": 0.0}
    return result


@proof("session-ended")
def session_ended(_: pytest.MonkeyPatch) -> EpisodeResult:
    return in_shell(bash("kill -9 $PPID"))


@proof("session-silent")
def session_silent(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    impatient(monkeypatch)
    return in_shell(bash("kill -STOP $PPID"), command_timeout=0.5, max_command_timeout=0.5)


@proof("session-babbles")
def session_babbles(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    """Or a hook of its toolset raises what it should have caught, in a call or in grading."""
    breaking(monkeypatch)
    babbling = in_shell(bash("break: babble"))
    raising = in_shell(bash("break: raise"))
    graded = in_shell(WRITTEN, default="break: raise")
    assert (babbling.metrics, outcome_of(babbling)) == (raising.metrics, outcome_of(raising))
    assert (babbling.metrics, outcome_of(babbling)) == (graded.metrics, outcome_of(graded))
    return babbling


@proof("tool-host-silent")
def tool_host_silent(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    breaking(monkeypatch)
    impatient(monkeypatch)
    command = bash("break: stop the tool host")
    return in_shell(command, bash("sleep 1"), command_timeout=2.0, max_command_timeout=2.0)


@proof("memory")
def memory(_: pytest.MonkeyPatch) -> EpisodeResult:
    """Files of a tmpfs: no process holds them, so the kernel ends one after the other and wins nothing."""
    fill = bash("for n in 1 2 3 4 5 6; do head -c 60M /dev/zero >$n; done; tail /dev/zero")
    small = {"memory_mb": 128, "scratch_mb": 512}
    return in_shell(fill, fill, sandbox={"backend": "docker", "image": build_image("shell"), **small})


@proof("closing-fails")
def closing_fails(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    breaking(monkeypatch)
    impatient(monkeypatch)
    result = in_shell(WRITTEN, default="break: cannot be closed")
    assert result.metrics["session_ended"] == 0.0
    return result


@proof("no-score-for-it")
def no_score_for_it(_: pytest.MonkeyPatch) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT, sandbox={"recycle": "episode"}) as worker:
        return one(worker, task(turn(("exit", {"status": 3}))))


@proof("set-up-refused")
def set_up_refused(_: pytest.MonkeyPatch) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT) as worker:
        return one(worker, task(opening={"open": "fail"}))


@proof("tests-do-not-load")
def hidden_tests_do_not_load(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    wanted = shell_env.make_shell_task

    def broken(*args: Any) -> Any:
        return wanted(*args).model_copy(update={"tests": "import nothing_of_the_kind"})

    monkeypatch.setattr(shell_env, "make_shell_task", broken)
    return in_shell(WRITTEN)


@proof("environment-raises")
def environment_raises(_: pytest.MonkeyPatch) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT) as worker:
        return one(worker, task(respond="raise"))


@proof("episode-timeout")
def episode_timeout(_: pytest.MonkeyPatch) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT, sandbox={"recycle": "episode"}) as worker:
        return one(worker, task(turn(("sleep", {"seconds": 30}))), seconds_left=1.0)


def among_neighbours(*calls: tuple[str, dict[str, Any]]) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT, sandbox={"recycle": "fork", "call_timeout": 1.0}) as worker:
        assert one(worker, task()).status == "finished"
        return one(worker, task(turn(*calls)))


@proof("one-of-many")
def one_of_many(_: pytest.MonkeyPatch) -> EpisodeResult:
    babbling = among_neighbours(("forge", {"frames": ["[]"]}))
    late = among_neighbours(("sleep", {"seconds": 30}))
    assert outcome_of(babbling) == outcome_of(late)
    return babbling


@proof("unknown-of-many")
def unknown_of_many(_: pytest.MonkeyPatch) -> EpisodeResult:
    return among_neighbours(("exit", {"status": 3}))


@proof("ended-from-outside")
def ended_from_outside(_: pytest.MonkeyPatch) -> EpisodeResult:
    """While the policy's code is at work in it, the container is killed."""
    sandbox = {"backend": "docker", "image": build_image("shell")}
    killed: list[bool] = []
    with MockPolicy(bash("sleep 100"), default=Reply("bye")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        args = {"tasks": ["fix-pagination"]}
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=sandbox) as worker:
            pool: Any = usual_pool(worker)

            def kill() -> None:
                while not any(killed):
                    killed.extend(
                        run_containers.kill_container(each.id)
                        for each in list(pool._up)
                        if _runs(each.id, "sleep")
                    )
                    time.sleep(0.1)

            beside = threading.Thread(target=kill, daemon=True)
            beside.start()
            (result,) = played(worker, spec(rows(worker)[0]))
            beside.join()
    return result


def _runs(container: str, program: str) -> bool:
    """Whether a program is at work in a container, by this machine's own list of processes."""
    try:
        inside = os.readlink(f"/proc/{run_containers.tool_host(container)}/ns/pid")
    except Exception:  # noqa: BLE001 - it may be gone already, or not be up yet
        return False
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == program and os.readlink(entry / "ns/pid") == inside:
                return True
        except OSError:
            continue
    return False


@proof("before-first-call")
def before_first_call(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    breaking(monkeypatch)
    return in_shell(default="break: exit")


@proof("policy-fails")
def policy_fails(_: pytest.MonkeyPatch) -> EpisodeResult:
    with rollout_worker(ENVIRONMENT) as worker:
        return one(worker, task(turn(put("a", 1))))  # whose script then is at its end


@proof("first-prompt")
def first_prompt(_: pytest.MonkeyPatch) -> EpisodeResult:
    result = in_shell(Fault(status=400, message="this model's maximum context length is 8192 tokens"))
    assert "the first prompt is longer than the policy's context" in (result.error_message or "")
    return result


@proof("unkillable")
def unkillable(monkeypatch: pytest.MonkeyPatch) -> EpisodeResult:
    """No program of a few seconds gets there, so the limit is set to none."""
    breaking(monkeypatch, breaking_shell.UNKILLABLE)
    return in_shell(bash("sleep 100 &"))


def outcome_of(result: EpisodeResult) -> EpisodeOutcome:
    if result.failure is None:
        assert (result.status, result.error_message) == ("finished", None)
        return "score"
    assert (result.status, result.reward) == ("failed", None)
    return "failed and tried again" if result.failure in AttemptsConfig.model_fields else "failed and final"


def marked(ending: EpisodeEnding) -> Any:
    marks = [pytest.mark.docker] if ending.name in IN_A_CONTAINER else []
    return pytest.param(ending, id=ending.name, marks=marks)


@pytest.mark.parametrize("ending", [marked(each) for each in ENDINGS if each.name not in PROVEN_ELSEWHERE])
def test_episode_that_ends_so_is_on_record_as_the_table_says(
    ending: EpisodeEnding, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = PROOFS[ending.name](monkeypatch)
    assert (outcome_of(result), result.failure) == (ending.outcome, ending.failure), result.error_message
    if ending.score == ZERO_SCORE:
        assert result.reward == 0.0
        assert result.metrics == {"solved": 0.0, "tests_passed": 0.0, "session_ended": 1.0}
    if ending.score == "0":
        assert result.metrics == {"solved": 0.0, "tests_passed": 0.0, "session_ended": 0.0}


def test_every_ending_has_a_proof_and_every_proof_an_ending() -> None:
    names = [ending.name for ending in ENDINGS]
    assert len(set(names)) == len(names)
    assert set(names) == PROOFS.keys() | PROVEN_ELSEWHERE.keys()
    assert not PROOFS.keys() & PROVEN_ELSEWHERE.keys()
    for module, test in PROVEN_ELSEWHERE.values():
        assert callable(getattr(importlib.import_module(module), test))


def test_what_the_table_says_is_played_again_is_what_has_attempts() -> None:
    assert set(AttemptsConfig.model_fields) == RETRIED_FAILURES
