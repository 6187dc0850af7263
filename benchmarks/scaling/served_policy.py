"""AgentDojo's ground truth as a policy on Ray Serve, of two replicas: what `oracle` says, but over the wire.

Run as a program it prints the script for `tests.helpers.serve_policy`: AgentDojo's own code stays out of the
benchmark's process.
"""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders.kumite_run import ROOT
from tests.helpers.ray_head import RayHead, free_ports

VERSION, SUITE = "v1.2.2", "banking"
SECONDS = 0.1
"""Of each answer."""


def make_script() -> dict[str, Any]:
    """What the policy says, for `tests.helpers.serve_policy`."""
    from sandbox_images.agentdojo.suites import load_suites
    from sandbox_images.agentdojo.toolset import AgentDojoToolset

    toolset = AgentDojoToolset(VERSION, [SUITE])
    toolset.preload()
    answers: dict[str, list[dict[str, Any]]] = {}
    for name, task in load_suites(VERSION, [SUITE])[SUITE].user_tasks.items():
        labels = {"suite": SUITE, "user_task": name}
        turns = toolset.open(labels, toolset.prepare(labels), Path()).oracle()
        answers[task.PROMPT] = [_make_message(index, turn) for index, turn in enumerate(turns)]
    return {"seconds": SECONDS, "answers": answers}


def _make_message(index: int, turn: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{index}_{number}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for number, call in enumerate(turn["tool_calls"])
    ]
    return {"role": "assistant", "content": turn["content"], **({"tool_calls": calls} if calls else {})}


@contextmanager
def serve_policy_on_cluster(head: RayHead, folder: Path) -> Generator[str]:
    """Serves it on a cluster: its URL."""
    written = folder / "script.json"
    written.write_bytes(subprocess.check_output([sys.executable, "-m", __name__], cwd=ROOT, timeout=60))
    [port] = free_ports(1)
    command = [sys.executable, "-m", "tests.helpers.serve_policy", head.gcs, str(port), str(written)]
    with subprocess.Popen(
        command, cwd=ROOT, env=head.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as serving:
        try:
            assert serving.stdout is not None and serving.stdout.readline() == "serving\n"
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            serving.kill()


if __name__ == "__main__":
    print(json.dumps(make_script()))
