import json
import sys
from pathlib import Path

import pytest

import workers
from workers.lanes.interpreter import OwnPython, own_environment
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeRecord, EpisodeSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

CODE = """
import json
import os
import sys

import verifiers as vf
from datasets import Dataset


def load_environment():
    def path(**_):
        return float(sys.path[0].endswith("code"))

    rubric = vf.Rubric(funcs=[path])
    return vf.SingleTurnEnv(eval_dataset=Dataset.from_list([{"question": "?", "answer": "!"}]), rubric=rubric)
"""


@pytest.mark.slow
def test_an_environments_code_runs_in_its_own_python_and_finds_our_packages(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    code = tmp_path / "code"
    code.mkdir()
    for name in ("workers", "sandbox_images"):
        (code / name).symlink_to(Path(workers.__file__).parent.parent / name)
    settings = WorkerSettings(
        run_id="r",
        environment=EnvironmentSettings(id=str(tmp_path / "mine.py")),
        sandbox=SandboxSettings(),
        policy=PolicyEndpoint(kind="oracle", model="oracle"),
    )
    worker = LanedWorker(settings, "w", OwnPython(sys.executable, str(code)))
    try:
        worker.ready()
        row = {
            "example_id": 0,
            "prompt": [{"role": "user", "content": "?"}],
            "answer": "!",
            "info": json.dumps({}),
        }
        spec = EpisodeSpec(episode_id="e", task_id="t", group_id="g", sample_index=0, row=row)
        [result] = worker.play([spec])
    finally:
        worker.stop()
    record = EpisodeRecord.model_validate_json(result.record)
    assert record.error is None
    assert result.reward == 1.0


def test_variables_of_another_python_are_left_out():
    given = {"PYTHONPATH": "/x", "PYTHONHOME": "/y", "VIRTUAL_ENV": "/z", "PATH": "/bin", "HOME": "/root"}
    assert own_environment(given, None) == given
    assert own_environment(given, OwnPython("/env/bin/python", "/code")) == {
        "PATH": "/env/bin:/bin",
        "HOME": "/root",
    }
