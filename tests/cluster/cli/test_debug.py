"""`kumite debug`, and where an author's own code went wrong: environment, reward and toolset."""

import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli.debug import play_debug_episode
from cluster.cli.main import app
from cluster.config.file import load_config
from cluster.errors import ConfigError, PolicyUnavailable
from cluster.observe.printed import log_episode_output, show_episode_output
from cluster.pool.packages import lock_packages
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, rollout_worker, rows
from tests.helpers.rollouts import spec as spec_of
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.records import EpisodeRecord
from workers.settings import EnvironmentSettings

ENVIRONMENT = """
import sys
import verifiers as vf
from datasets import Dataset
from workers.sandbox.base import ToolsetSpec

TABLE = {}

class Env(vf.MultiTurnEnv):
    def __init__(self, where, **kwargs):
        super().__init__(**kwargs)
        self.where = where
        if where.startswith("toolset"):
            self.toolset = ToolsetSpec("shell", "my_toolset:MyToolset")

    async def setup_state(self, state):
        print("set up by the environment")
        if self.where == "breakpoint":
            breakpoint()
        if self.where == "setup":
            look_up("setup")
        if self.where.startswith("toolset"):
            opened = await state["sandbox"].open({"where": self.where})
            await state["sandbox"].call("any", {})
        return state

    async def env_response(self, messages, state, **_):
        if self.where == "response":
            look_up("response")
        return []

    @vf.stop
    async def over(self, state):
        return self.where != "response" and bool(state["trajectory"])

def look_up(name):
    return TABLE[name]

def reward(state):
    if state["info"]["where"] == "reward":
        look_up("reward")
    return 1.0

def load_environment(where):
    name = where if where.startswith("[") else "task"
    rows = [{"prompt": [{"role": "user", "content": f"say yes to {n}"}], "answer": "yes",
             "info": {"task_id": f"{name}-{n}", "where": where}} for n in range(2)]
    rubric = vf.Rubric(funcs=[reward])
    return Env(where, eval_dataset=Dataset.from_list(rows), rubric=rubric, max_turns=3)
"""
TOOLSET = """
import sys
from sandbox_images.tool_host.toolset import Session, Toolset, ToolResult

class MySession(Session):
    tools = []
    observation = []

    def __init__(self, where):
        self.where = where

    def call(self, tool, arguments):
        print("said by the toolset")
        if self.where == "toolset call":
            look_up("call")
        return ToolResult("")

    def oracle(self):
        return [{"content": "yes", "tool_calls": []}]

class MyToolset(Toolset):
    def open(self, task, prepared, scratch):
        if task["where"] == "toolset open":
            look_up("open")
        return MySession(task["where"])

def look_up(name):
    return {}[name]
"""
NOTE = """
import importlib.metadata, sys
with open("seen", "a") as seen:
    print(importlib.metadata.version("verifiers"), "workers.debugging" in sys.modules, file=seen)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_environment.py").write_text(ENVIRONMENT)
    (tmp_path / "my_toolset.py").write_text(TOOLSET)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(folder: Path, where: str, **policy: str) -> Path:
    path = folder / "config.yaml"
    environment = {"id": "my_environment.py", "args": {"where": where}}
    path.write_text(yaml.safe_dump({"environment": environment, "policy": policy or {"kind": "oracle"}}))
    return path


def debugged(folder: Path, where: str, task: str | None = None) -> tuple[EpisodeRecord, str]:
    said = io.StringIO()
    record = play_debug_episode(load_config(config_of(folder, where)), Console(file=said, width=200), task)
    return record, said.getvalue()


def debugged_v1(
    folder: Path, environment: dict[str, Any], policy: MockPolicy, task: str | None = None, **more: Any
) -> tuple[EpisodeRecord, str]:
    said, path = io.StringIO(), folder / "v1.yaml"
    endpoint = {"kind": "endpoint", "base_url": policy.base_url, "model": "mock"}
    path.write_text(yaml.safe_dump({"environment": environment, "policy": endpoint, **more}))
    record = play_debug_episode(load_config(path), Console(file=said, width=200), task)
    return record, said.getvalue()


@pytest.mark.parametrize("where", ["setup", "response", "reward", "toolset call", "toolset open"])
def test_an_exception_of_an_authors_own_code_is_on_record_with_file_line_function_and_code(
    folder: Path, where: str
) -> None:
    record, said = debugged(folder, where)
    assert record.status == "failed" and record.error is not None
    raised_at = record.error.traceback or ""
    file = "my_toolset.py" if where.startswith("toolset") else "my_environment.py"
    assert f"/{file}" in raised_at and "in look_up" in raised_at
    assert "return {}[name]" in raised_at or "return TABLE[name]" in raised_at
    assert "workers/" not in raised_at
    assert raised_at in said and "KeyError" in said


def test_an_episode_is_shown_as_it_goes_on(folder: Path) -> None:
    record, said = debugged(folder, "nowhere", "task-1")
    assert (record.status, record.reward, record.task_id) == ("finished", 1.0, "task-1")
    lines = said.splitlines()
    assert "user: say yes to 1" in lines and lines.count("assistant: yes") == 1
    assert "finished: reward 1.0" in said


def test_texts_that_look_like_markup_or_drive_the_terminal_are_shown_as_they_are(folder: Path) -> None:
    record, said = debugged(folder, "[/INST] \x1b[2J")
    assert record.status == "finished"
    assert "task [/INST] \\x1b[2J-0, episode" in said
    assert "\x1b" not in said


def test_a_task_that_there_is_not_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no task 'task-9'"):
        debugged(folder, "nowhere", "task-9")


def test_a_breakpoint_stops_on_the_main_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def stop() -> None:
        import threading

        frame = sys._getframe(1)
        seen.append((frame.f_code.co_name, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(sys, "breakpointhook", stop)
    assert debugged(folder, "breakpoint")[0].status == "finished"
    assert seen == [("setup_state", True)]


def test_without_a_deployment_it_says_what_to_do(folder: Path) -> None:
    config = load_config(config_of(folder, "nowhere", kind="vllm"))
    with pytest.raises(PolicyUnavailable, match="kumite policy up CONFIG"):
        play_debug_episode(config, Console(file=io.StringIO()))


def test_command_exits_with_3_where_the_episode_fails(folder: Path) -> None:
    def invoke(where: str) -> int:
        return CliRunner().invoke(app, ["debug", str(config_of(folder, where))]).exit_code

    assert [invoke("nowhere"), invoke("reward")] == [0, 3]


def test_what_environment_and_toolset_print_is_logged_by_episode_and_shown_if_asked(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"where": "toolset"}
    with rollout_worker(
        str(folder / "my_environment.py"), args=arguments, sandbox={"backend": "process"}
    ) as worker:
        [first, second] = played(worker, *(spec_of(row) for row in rows(worker)))
    said = io.StringIO()
    show_episode_output(Console(file=said, width=200))
    with caplog.at_level(logging.INFO, "cluster"):
        log_episode_output(first)
    assert second.printed == first.printed == "set up by the environment\nsaid by the toolset\n"
    [line] = [record for record in caplog.records if record.name == "cluster.observe.printed"]
    assert "said by the toolset" in line.getMessage() and line.episode == first.episode_id  # pyright: ignore
    assert f"{first.episode_id} said by the toolset" in said.getvalue()


def test_a_v1_taskset_is_shown_as_it_goes_on_with_its_tools(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MockPolicy(Reply(content=None, tool_calls=[("count", {"by": 5})])) as policy:
        file = write_taskset(folder, "Counted")
        text = file.read_text().replace("self.state.count += by", "breakpoint(); self.state.count += by")
        file.write_text(text)
        stops: list[str] = []
        monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append(sys._getframe(1).f_code.co_name))
        record, said = debugged_v1(folder, {"id": str(file)}, policy, "1")
    assert (record.status, record.reward, record.task_id) == ("finished", 5.0, "1")
    assert stops == ["count"]
    lines = [line.rstrip() for line in said.splitlines()]
    assert lines[1:4] == ["user: Count on.", "assistant:", '    → count {"by": 5}'], said
    assert "finished: reward 5.0" in said


def test_each_agents_conversation_is_shown_under_its_name(folder: Path) -> None:
    file = write_taskset(folder, "Plain")
    environment = {"id": str(file), "args": {"id": "user-sim", "user": {"model": "customer"}}}
    talk = MockPolicy(Reply(content="Say ok, please."), default=Reply(content="###DONE###"), model="other")
    with MockPolicy() as policy, talk as other:
        customer = {"kind": "endpoint", "base_url": other.base_url, "model": "other"}
        record, said = debugged_v1(folder, environment, policy, policies={"customer": customer})
        assert record.status == "finished", said
        assert "assistant: user: Say ok, please." in said
        assert "assistant: assistant: ok" in said
        assert "user: assistant: ###DONE###" in said
        with pytest.raises(
            PolicyUnavailable, match=r"policies\.customer\.kind: got `vllm`, and `kumite debug`"
        ):
            debugged_v1(folder, environment, policy, policies={"customer": {"kind": "vllm"}})


@pytest.mark.slow
def test_an_environment_with_packages_of_its_own_is_debugged_in_its_own_python(folder: Path) -> None:
    requirements = ["verifiers==0.4.0"]
    try:
        lock_packages(EnvironmentSettings(id="e", requirements=requirements))
    except ConfigError as error:
        pytest.skip(f"no package index can be reached: {error}")
    file = write_taskset(folder, "Plain")
    file.write_text(f"{file.read_text()}\n{NOTE}")
    with MockPolicy() as policy:
        environment = {"id": str(file), "requirements": requirements}
        record, said = debugged_v1(folder, environment, policy, "1")
    assert (record.status, record.reward, record.task_id) == ("finished", 1.0, "1"), said
    assert said.splitlines()[1:3] == ["user: And that?", "assistant: ok"]
    assert (folder / "seen").read_text().splitlines()[-1] == "0.4.0 True"
