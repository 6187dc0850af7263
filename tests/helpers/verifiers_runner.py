"""Plays tasksets by verifiers' own `eval`, in whatever Python it is started with; prints what came of them.

It is run as a program: with a config as JSON text for each taskset, one a line, on its standard input.
"""

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
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
_SCRIPTED = ["openai", "mcp", "mcp.client.streamable_http", "httpx", "httpx2", "tenacity"]
"""What its agents' programs import, each in a Python of its own."""


def fork_processes(stack: ExitStack) -> None:
    """Has verifiers fork tool servers and agents' programs, not start each: their imports take seconds."""
    spec = importlib.util.spec_from_file_location(
        "program_forks", Path(__file__).with_name("program_forks.py")
    )
    assert spec is not None and spec.loader is not None
    program_forks: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program_forks)
    from verifiers.v1.runtimes.subprocess import SubprocessRuntime

    runtime: Any = SubprocessRuntime
    run_background, prepare_uv_script = runtime.run_background, runtime.prepare_uv_script
    pythons: dict[str, list[str]] = {}

    def stand_in(python: str, modules: list[str]) -> list[str]:
        if python not in pythons:
            forks = program_forks.fork_programs(python, modules, os.environ)
            pythons[python] = stack.enter_context(forks)
        return pythons[python]

    async def fork_background(self: Any, argv: list[str], *rest: Any) -> None:
        if argv[:2] == [sys.executable, "-m"]:
            argv = [*stand_in(sys.executable, _SERVED), *argv[1:]]
        await run_background(self, argv, *rest)

    async def fork_script(self: Any, *given: Any, **options: Any) -> list[str]:
        *before, python, script = await prepare_uv_script(self, *given, **options)
        return [*before, *stand_in(python, _SCRIPTED), script]

    runtime.run_background, runtime.prepare_uv_script = fork_background, fork_script


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
    try:
        with ExitStack() as stack:
            fork_processes(stack)
            for result in asyncio.run(play_all(configs)):
                os.write(out, (json.dumps(result) + "\n").encode())
    finally:
        for name in names.made:
            Path(f"/tmp/vf-port-{name}").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
