"""Plays tasksets by verifiers' own `eval`, in whatever Python it is started with; prints what came of them.

It is run as a program: with a config as JSON text for each taskset, one a line, on its standard input.
"""

import asyncio
import json
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
import uuid
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
_AT_START = "import gc; gc.set_threshold(50_000, 10, 10)  # a fifth of the time of imports is the collector's"


def evaluate(
    python: str, configs: list[dict[str, Any]], folder: Path, timeout: float, first: str = ""
) -> list[list[Any]]:
    """The episodes of each taskset.

    Args:
        python: Which one is to play.
        configs: What verifiers' eval takes.
        folder: Where the modules of the tasksets are.
        timeout: Seconds for all tasksets together.
        first: A program that it runs before.
    """
    (folder / "sitecustomize.py").write_text(_AT_START)
    done = subprocess.run(
        [python, "-c", f"{first}\n{_RUN}", __file__],
        input="\n".join(json.dumps(config) for config in configs),
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line)["episodes"] for line in done.stdout.splitlines()]


async def play(config: dict[str, Any]) -> dict[str, Any]:
    """The episodes of one taskset, as verifiers records them, and the seconds that they took."""
    from verifiers.v1.cli.eval.runner import run_eval
    from verifiers.v1.configs.cli.eval import EvalConfig

    fields: Any = EvalConfig.model_fields
    if "serve" in fields:  # up to 0.3.1: in this process, as from 0.4.0 on
        config = {**config, "serve": None}
    began = time.monotonic()
    episodes = await run_eval(EvalConfig.model_validate({**config, "push": False, "rich": None}))
    seconds = time.monotonic() - began
    return {"seconds": seconds, "episodes": [_record(episode) for episode in episodes]}


def _record(episode: Any) -> dict[str, Any]:
    traces = [
        {
            "agent": trace.agent.name,
            "trainable": trace.agent.trainable,
            "messages": [message.model_dump(mode="json", exclude_none=True) for message in trace.messages],
            "branches": [len(branch.messages) for branch in trace.branches],
            "tools": [tool.name for tool in trace.tools],
            "rewards": {
                name: reward and (reward.score, reward.weight) for name, reward in trace.rewards.items()
            },
            "reward": trace.reward,
            "metrics": dict(trace.metrics),
            "stop": trace.stop_condition,
            "turns": trace.num_turns,
            "truncated": trace.is_truncated,
            "errors": [error.type for error in trace.errors],
            "input_tokens": trace.num_input_tokens,
            "output_tokens": trace.num_output_tokens,
            "usage": [
                (call.usage.prompt_tokens, call.usage.completion_tokens) for call in trace.calls if call.usage
            ],
        }
        for trace in episode.traces
    ]
    task = episode.task.data.model_dump(mode="json")
    return {"task": task, "ok": episode.ok, "errors": [e.type for e in episode.errors], "traces": traces}


async def play_all(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plays tasksets, four at a time."""
    room = asyncio.Semaphore(4)

    async def play_one(config: dict[str, Any]) -> dict[str, Any]:
        async with room:
            return await play(config)

    return await asyncio.gather(*map(play_one, configs))


_SERVED = ["verifiers.v1", "mcp.server.fastmcp", "mcp.server.mcpserver", "httpx", "uvicorn"]
"""What verifiers' tool servers import, of which it starts one a rollout; mcp has one of the two."""


class ForkedServer:
    """A tool server as a fork of a process that has made its imports: as much of a process as verifiers uses.

    Args:
        module: What verifiers would run with `python -m`.
        variables: Its environment variables.
        folder: Where it runs.
        log: The file for its output.
    """

    def __init__(self, module: str, variables: dict[str, str], folder: Path, log: Path) -> None:
        forks = multiprocessing.get_context("forkserver")
        self._process: ForkServerProcess = forks.Process(
            target=_become_server, args=(module, variables, folder, log)
        )
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    async def wait(self) -> int | None:
        await asyncio.to_thread(self._process.join)
        return self.returncode


def _become_server(module: str, variables: dict[str, str], folder: Path, log: Path) -> None:
    """Makes this fork the server, the leader of a session of its own."""
    os.setsid()
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    assert "verifiers.v1" in sys.modules, "nothing was imported ahead"
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = ["-m"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork_servers() -> None:
    """Has verifiers fork its tool servers, not start each: their imports take two seconds."""
    from verifiers.v1.runtimes.subprocess import SubprocessRuntime

    runtime: Any = SubprocessRuntime
    start = runtime.run_background

    async def run_background(self: Any, argv: list[str], env: dict[str, str], log: str) -> None:
        if argv[:2] != [sys.executable, "-m"] or len(argv) != 3:
            await start(self, argv, env, log)
            return
        variables = {name: value for name, value in os.environ.items() if "API_KEY" not in name.upper()}
        variables |= self.process_env(env)
        self._background.append(ForkedServer(argv[2], variables, self.workdir, self.workdir / log))

    multiprocessing.set_forkserver_preload(_SERVED)
    runtime.run_background = run_background


class RecordedNames:
    """Stands in for the module `uuid` where verifiers makes names of files in /tmp that it leaves there."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def uuid4(self) -> uuid.UUID:
        name = uuid.uuid4()
        self.made.append(name.hex)
        return name


def main() -> None:
    """Plays what is asked for."""
    from verifiers.v1.mcp import launch

    logging.disable(logging.WARNING)
    out = os.dup(1)
    os.dup2(2, 1)  # what verifiers prints is no result
    configs = [json.loads(line) for line in sys.stdin]
    names: Any = RecordedNames()
    launch.uuid = names
    fork_servers()
    try:
        for result in asyncio.run(play_all(configs)):
            os.write(out, (json.dumps(result) + "\n").encode())
    finally:
        for name in names.made:
            Path(f"/tmp/vf-port-{name}").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
