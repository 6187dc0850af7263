"""vLLM's engine as a fork: with its replica's variables, and never longer there than its replica."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.kumite import until
from tests.helpers.drivers import ROOT

REPLICA = """
import json, os, sys, time
from cluster.policy.vllm import engine_process

def serve(answer):
    told = {"pid": os.getpid(), "given": os.environ.get("GIVEN"), "early": os.environ.get("EARLY")}
    with open(answer, "w") as file:
        file.write(json.dumps(told) + "\\n")
    time.sleep(600)

if __name__ == "__main__":
    engine_process.import_ahead()
    os.environ["EARLY"] = "early"
    engine = engine_process._EngineContext().Process(target=time.sleep, args=(0,))
    engine.start()  # the process that is forked is there from now on
    engine.join(60)
    os.environ["GIVEN"] = "given"
    del os.environ["EARLY"]
    engine_process._EngineContext().Process(target=serve, args=(sys.argv[1],)).start()
    time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    )


@pytest.mark.slow
def test_an_engine_has_its_replicas_variables_and_ends_when_that_is_killed(tmp_path: Path) -> None:
    program, answer = tmp_path / "replica.py", tmp_path / "answer.json"
    program.write_text(REPLICA)
    replica = subprocess.Popen(
        [sys.executable, str(program), str(answer)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        until(lambda: answer.exists() and answer.read_text().endswith("\n"), "the engine's answer", 120)
        told = json.loads(answer.read_text())
        assert (told["given"], told["early"]) == ("given", None)
        assert is_alive(told["pid"])
        replica.send_signal(signal.SIGKILL)
        replica.wait(60)
        until(lambda: not is_alive(told["pid"]), "the engine's end", 120)
    finally:
        os.killpg(replica.pid, signal.SIGKILL)
