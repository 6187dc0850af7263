"""The shell environment: oracles solve every task, idlers none, and nothing is told before the end."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import jsonpatch
import pytest
import verifiers as vf

from cluster.config import EpisodeConfig, RunConfig
from cluster.errors import ConfigError
from cluster.plan.plan import load_plan
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.sandboxes import children, eventually
from workers.environments.shell.dataset import load_cards, make_shell_task
from workers.environments.shell.environment import load_environment
from workers.errors import EnvironmentLoadError
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker
from workers.sandbox.base import Session
from workers.settings import PolicyEndpoint

pytestmark = pytest.mark.slow

ON_THIS_MACHINE = {"recycle": "fork", "unsafe": True}


@pytest.fixture(scope="module")
def worker() -> Iterator[RolloutWorker]:
    with rollout_worker("shell", sandbox=ON_THIS_MACHINE) as worker:
        yield worker


def episodes(worker: RolloutWorker) -> dict[str, EpisodeResult]:
    """Every task once, four at a time."""
    specs = [spec(row) for row in rows(worker)]
    results: list[EpisodeResult] = []
    for start in range(0, len(specs), 4):
        results += played(worker, *specs[start : start + 4])
    return {one.task_id: result for one, result in zip(specs, results, strict=True)}


def test_every_oracle_solves_its_task(worker: RolloutWorker) -> None:
    results = episodes(worker)
    assert list(results) == list(load_cards())
    unsolved = {task: (r.metrics, r.error_message) for task, r in results.items() if r.reward != 1.0}
    assert unsolved == {}
    assert all(
        result.metrics == {"solved": 1.0, "tests_passed": 1.0, "session_ended": 0.0}
        for result in results.values()
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_oracles_solve_other_data_too(seed: int) -> None:
    with rollout_worker("shell", args={"kinds": ["find"], "seed": seed}, sandbox=ON_THIS_MACHINE) as worker:
        results = episodes(worker)
    assert {task: result.reward for task, result in results.items()} == dict.fromkeys(results, 1.0)
    assert all(task.endswith(f"/{seed}") for task in results)


def test_idler_solves_nothing() -> None:
    with MockPolicy(default=Reply("I have done it.")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker("shell", policy=endpoint, sandbox=ON_THIS_MACHINE) as worker:
            results = episodes(worker)
    assert {task: result.reward for task, result in results.items()} == dict.fromkeys(load_cards(), 0.0)
    assert all(result.metrics["solved"] == 0.0 for result in results.values())
    assert all((result.metrics["tests_passed"] or 0) < 0.5 for result in results.values())


def with_policy(
    *script: Reply, task: str, sandbox: dict[str, Any] = ON_THIS_MACHINE, **args: Any
) -> EpisodeResult:
    """One episode of a task, by a policy that says these things and then goodbye."""
    with MockPolicy(*script, default=Reply("bye")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker(
            "shell", args={"tasks": [task], **args}, policy=endpoint, sandbox=sandbox
        ) as worker:
            (result,) = played(worker, spec(rows(worker)[0]))
    return result


def answers(result: EpisodeResult) -> list[str]:
    return [message.content or "" for message in record(result).messages if message.role == "tool"]


def test_malformed_calls_are_told_and_the_episode_goes_on() -> None:
    calls: list[tuple[str, Any]] = [
        ("bash", "{not json"),
        ("bash", '["list"]'),
        ("bash", {"cmd": "ls"}),
        ("fly", {}),
        ("bash", '{"command": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("bash", {"command": "echo ok"}),
    ]
    result = with_policy(Reply(None, calls), task="write-justify")
    assert result.status == "finished"
    said = answers(result)
    assert said[0].startswith("the arguments of bash are not JSON: ")
    assert said[1] == "the arguments of bash must be an object, got list"
    assert said[2] == "bash needs the argument command"
    assert said[3].startswith("there is no tool 'fly'")
    assert said[4].startswith(("the arguments of bash are not JSON: ", "bash was not run: "))
    assert said[5] == "ok\n[exit code 0]"


ALONE = {"recycle": "episode", "unsafe": True}
KILL_PARENT = Reply(None, [("bash", {"command": "kill -9 $PPID"}), ("bash", {"command": "echo on"})])
GOOD = {"path": "pages.py", "content": "def page_count(total, size):\n    return -(-total // size)\n"}


def test_session_that_is_ended_from_within_scores_0_and_says_so() -> None:
    """With a process of the same user, as here, it can be: no episode is thrown away for it."""
    result = with_policy(KILL_PARENT, task="fix-pagination", sandbox=ALONE)
    assert (result.status, result.error_message) == ("finished", None)
    assert result.reward == 0.0
    assert result.metrics == {"solved": 0.0, "tests_passed": 0.0, "session_ended": 1.0}
    (told, again) = answers(result)
    assert told == again
    assert told.startswith("[the session has ended, and the episode with it: ")
    assert [message.content for message in record(result).steps[-1].observations] == [told, again]
    assert record(result).stop_reason == "has_final_env_response"


def test_session_that_is_stopped_from_within_scores_0_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.environments.shell.shell_env._CLEANING_UP", 1.0)
    stop = Reply(None, [("bash", {"command": "kill -STOP $PPID"})])
    limits = {"command_timeout": 0.5, "max_command_timeout": 0.5}
    result = with_policy(stop, task="fix-pagination", sandbox=ALONE, **limits)
    assert (result.status, result.reward) == ("finished", 0.0)
    assert result.metrics["session_ended"] == 1.0
    assert "did not end within its time limit" in answers(result)[0]


def test_policy_that_dallies_is_graded_when_its_time_is_up() -> None:
    slow = Reply(None, [("write_file", GOOD), ("bash", {"command": "sleep 4"}), ("bash", {"command": "ls"})])
    result = with_policy(slow, task="fix-pagination", tools_timeout=3.0)
    assert (result.status, record(result).stop_reason) == ("finished", "has_final_env_response")
    time_is_up = "the time for tools is over; the workspace is judged as it is"
    assert answers(result)[1:] == [f"[exit code 0]\n[{time_is_up}]", f"bash was not run: {time_is_up}"]
    assert result.metrics["session_ended"] == 0.0
    assert (result.metrics["tests_passed"] or 0) > 0


LONGEST_NAMES = """
import os
for _ in range(31):
    os.mkdir("\\1" * 255)
    os.chdir("\\1" * 255)
for number in range(170):
    open(f"{number:03}" + "\\1" * 252, "w").close()
"""


def test_policy_cannot_make_its_states_too_large_to_be_sent() -> None:
    """As JSON, a control character takes six bytes, and a renamed folder has every path in it twice."""
    calls: list[tuple[str, dict[str, Any] | str]] = [
        ("python", {"code": LONGEST_NAMES}),
        *[("bash", {"command": "mv $'\\1'* b || mv b $'\\1\\1'"})] * 2,
    ]
    result = with_policy(Reply(None, calls), task="fix-pagination")
    assert [answer.rpartition("\n")[2] for answer in answers(result)] == ["[exit code 0]"] * 3
    assert (result.status, result.reward) == ("finished", 0.0)


def test_submission_that_ends_the_session_while_it_is_examined_scores_0() -> None:
    bad = {"path": "pages.py", "content": "import os\nos.kill(os.getppid(), 9)\n"}
    result = with_policy(Reply(None, [("write_file", bad)]), task="fix-pagination", sandbox=ALONE)
    assert (result.status, result.reward) == ("finished", 0.0)
    assert result.metrics["session_ended"] == 1.0


def test_session_that_a_neighbour_may_have_ended_is_a_failure() -> None:
    """One container for all, against the toolset's advice: whose doing it was is not to be known."""
    with MockPolicy(Reply("hello"), KILL_PARENT, default=Reply("bye")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker(
            "shell", args={"tasks": ["fix-pagination"]}, policy=endpoint, sandbox=ON_THIS_MACHINE
        ) as worker:
            first, second = (played(worker, spec(rows(worker)[0]))[0] for _ in range(2))
    assert (first.status, second.status) == ("finished", "failed")
    assert (second.failure, second.reward) == ("sandbox", None)


def test_last_words_are_an_answer() -> None:
    right = with_policy(Reply("10065"), task="find-effective-port")
    wrong = with_policy(Reply("8025"), task="find-effective-port")
    assert (right.reward, wrong.reward) == (1.0, 0.0)


def test_reward_is_what_the_config_weighs() -> None:
    half = {"path": "pages.py", "content": "def page_count(total, size):\n    return -(-total // size)\n"}
    result = with_policy(
        Reply(None, [("write_file", half)]),
        task="fix-pagination",
        reward={"solved": 1.0, "tests_passed": 0.5},
    )
    assert result.metrics == {"solved": 0.0, "tests_passed": pytest.approx(1 / 7), "session_ended": 0.0}
    assert result.reward == pytest.approx(0.5 / 7)


def test_turns_are_limited() -> None:
    result = with_policy(
        *[Reply(None, [("bash", {"command": "true"})])] * 5, task="write-justify", max_turns=2
    )
    assert result.status == "finished"
    assert (record(result).stop_reason, len(record(result).steps)) == ("max_turns_reached", 2)


def test_records_have_the_workspace_step_by_step(worker: RolloutWorker) -> None:
    (row,) = [row for row in rows(worker) if row["info"]["name"] == "fix-game-of-life"]
    (result,) = played(worker, spec(row))
    episode = record(result)
    assert episode.initial_state_id == "shell-empty-workspace"
    assert json.loads(result.states.get(episode.initial_state_id, '{"folder": ".", "files": {}}')) == {
        "folder": ".",
        "files": {},
    }
    state: Any = jsonpatch.apply_patch({"folder": ".", "files": {}}, episode.initial_state_patch or "")
    assert state["files"]["life.py"]["text"] == make_shell_task("fix-game-of-life", 0).files[0]["text"]
    texts: list[str] = []
    for step in episode.steps:
        state = jsonpatch.apply_patch(state, step.state_patch or "")
        texts.append(state["files"]["life.py"]["text"])
    assert texts[0] == make_shell_task("fix-game-of-life", 0).files[0]["text"]
    assert "for _ in range(height)" in texts[-1]
    tools = [tool["name"] for tool in json.loads(episode.tool_schemas)]
    assert tools == ["bash", "python", "read_file", "write_file", "edit_file", "list_files"]


def test_tests_and_answers_are_sent_after_the_last_turn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to the sandbox, in order."""
    sent: list[tuple[str, str]] = []
    request = Session._request

    async def noted(self: Session, op: str, timeout: float, **fields: Any) -> Any:
        sent.append((op, json.dumps(fields)))
        return await request(self, op, timeout, **fields)

    monkeypatch.setattr(Session, "_request", noted)
    task = "find-brute-force"
    secrets = [make_shell_task(task, 0).expected, "def test_address_and_account"]
    with_policy(Reply(None, [("bash", {"command": "ls"})]), Reply(None, [("list_files", {})]), task=task)
    assert [op for op, _ in sent] == ["open", "call", "call", "evaluate"]
    for secret in secrets:
        assert [secret in fields for _, fields in sent] == [False, False, False, True]


def test_overdue_command_costs_the_episode_nothing() -> None:
    result = with_policy(
        Reply(None, [("bash", {"command": "sleep 3600", "timeout": 0.3})]),
        Reply(None, [("bash", {"command": "echo alive"})]),
        task="write-justify",
    )
    assert result.status == "finished"
    assert "did not end within 0.3 s" in answers(result)[0]
    assert answers(result)[1] == "alive\n[exit code 0]"


def test_commands_may_take_longer_than_other_calls() -> None:
    """`sandbox.call_timeout` is for calls in general; a command has the environment's own limit."""
    with MockPolicy(
        Reply(None, [("bash", {"command": "sleep 1.2; echo slept"})]), default=Reply("bye")
    ) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        sandbox = {**ON_THIS_MACHINE, "call_timeout": 1.0}
        args = {"tasks": ["find-effective-port"]}
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=sandbox) as worker:
            (result,) = played(worker, spec(rows(worker)[0]))
    assert answers(result) == ["slept\n[exit code 0]"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"tasks": "fix-retry"}, r"environment\.args\.tasks: .* got 'fix-retry'"),
        ({"kinds": ["read"]}, r"environment\.args\.kinds\.0: .*'write', 'fix' or 'find'"),
        ({"difficulty": []}, r"environment\.args\.difficulty"),
        ({"tasks": ["fix-retry"] * 2}, r"environment\.args\.tasks: 'fix-retry' is in it more than once"),
        ({"turns": 3}, r"environment\.args\.turns: there is no such key; did you mean max_turns\?"),
        ({"max_turns": 0}, r"environment\.args\.max_turns"),
        ({"reward": {"utility": 1}}, r"environment\.args\.reward\.utility"),
        ({"reward": {}}, r"environment\.args\.reward"),
        ({"output_cap": 10}, r"environment\.args\.output_cap"),
        ({"sandbox": {"memory_mb": 1}}, r"environment\.args\.sandbox\.memory_mb: .*, got 1$"),
        ({"sandbox": "docker"}, r"environment\.args\.sandbox: .*dictionary.*, got 'docker'"),
        (
            {"sandbox": {"backend": "process", "session_users": True}},
            r"environment\.args\.sandbox\.session_users needs sandbox\.backend `docker`",
        ),
        ({"command_timeout": 500}, r"command_timeout: 500 is more than max_command_timeout, 120"),
    ],
)
def test_wrong_arguments_are_told(args: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EnvironmentLoadError, match=complaint):
        load_environment(**args)


def test_tools_that_may_outlast_the_episode_are_refused() -> None:
    """Else a policy that only sleeps had its episode ended without a grade."""
    with pytest.raises(EnvironmentLoadError) as refused:
        load_environment(episode_timeout=300.0)
    assert str(refused.value) == (
        "environment.args.tools_timeout: 600 lets an episode's tools and grading take up to 795 s "
        "(max_command_timeout is 120), which must be less than episode.timeout, 300: it ends an episode "
        "without a grade"
    )
    load_environment(episode_timeout=300.0, tools_timeout=100.0)
    load_environment(episode_timeout=EpisodeConfig().timeout)


def test_config_is_held_to_it() -> None:
    config = {"environment": {"id": "shell"}, "policy": {"kind": "oracle"}, "episode": {"timeout": 300}}
    with pytest.raises(ConfigError, match=r"tools_timeout: 600 .* less than episode\.timeout, 300"):
        load_plan(RunConfig.model_validate(config), "run")


ALONE_HERE = {"backend": "process", **ALONE}


async def evaluated(env: Any, policy: MockPolicy, rollouts: int = 1) -> list[Any]:
    """What verifiers' own evaluation gives, in sandboxes that the environment brings up itself."""
    client = vf.ClientConfig(api_base_url=policy.base_url, api_key_var="NO_KEY")
    done: Any = await env.evaluate(client, "mock", num_examples=1, rollouts_per_example=rollouts)
    return done["outputs"]


def test_it_plays_under_verifiers_alone_and_leaves_no_sandbox_behind() -> None:
    env = load_environment(tasks=["find-effective-port"], sandbox=ALONE_HERE)

    async def play(policy: MockPolicy) -> list[float]:
        before = children(os.getpid())
        outputs = await evaluated(env, policy, rollouts=3)
        ready = 2  # started ahead for the next ones
        await eventually(lambda: len(children(os.getpid()) - before) <= ready)
        await env._teardown()
        await eventually(lambda: children(os.getpid()) <= before)
        return [output["reward"] for output in outputs]

    with MockPolicy(default=Reply("10065")) as policy:
        assert asyncio.run(play(policy)) == [1.0] * 3


def test_session_that_cannot_be_opened_leaves_no_sandbox_behind() -> None:
    sandbox = {**ALONE_HERE, "session_limits": {"open_files": 32}}
    env = load_environment(tasks=["find-effective-port"], sandbox=sandbox)

    async def play(policy: MockPolicy) -> list[Any]:
        before = children(os.getpid())
        outputs = await evaluated(env, policy, rollouts=3)
        ready = 2
        await eventually(lambda: len(children(os.getpid()) - before) <= ready)
        await env._teardown()
        return [output["error"] for output in outputs]

    with MockPolicy() as policy:
        errors = asyncio.run(play(policy))
    assert all("a shell needs 64, got 32" in str(error) for error in errors), errors


def test_it_is_evaluated_on_one_event_loop_after_another() -> None:
    env = load_environment(tasks=["find-effective-port"], sandbox=ALONE_HERE)
    with (
        MockPolicy(default=Reply("10065")) as policy,
        asyncio.Runner() as first,
        asyncio.Runner() as second,
    ):
        outputs = first.run(evaluated(env, policy))
        firsts = env._sandboxes._pool
        outputs += second.run(evaluated(env, policy))
        second.run(env._teardown())
        assert firsts is not None
        first.run(firsts.close())
    assert [(output["reward"], output["error"]) for output in outputs] == [(1.0, None)] * 2


def test_it_keeps_the_name_it_was_loaded_by() -> None:
    name = "workers.environments.shell.environment"
    assert vf.load_environment(name, sandbox={"backend": "process"}).env_id == name
