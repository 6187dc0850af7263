"""Our errors are verifiers' own kinds, for which no process has to import its classic API."""

import subprocess
import sys

import pytest

SAME = """
import pickle, sys
import workers.errors as ours
assert not [name for name in sys.modules if name.startswith("verifiers")]
import verifiers as vf
import verifiers.errors as old_path, verifiers.legacy.errors as errors
assert errors is old_path is vf.errors is sys.modules["verifiers.legacy"].errors
assert ours.OverlongPromptError is vf.OverlongPromptError is errors.OverlongPromptError
assert issubclass(ours.PolicyError, vf.ModelError) and issubclass(ours.SandboxDied, vf.SandboxError)
assert type(pickle.loads(pickle.dumps(vf.InfraError("it rests")))) is errors.InfraError
from verifiers.legacy.envs.multiturn_env import vf as inside
assert inside.Error is errors.Error
"""
AFTER = """
import verifiers as vf
import workers.errors as ours
assert issubclass(ours.PolicyError, vf.ModelError) and ours.OverlongPromptError is vf.OverlongPromptError
"""
LIGHT = """
import sys
import cluster.run, cluster.rollout_engine, cluster.pool.ray_worker
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def stdout_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", [SAME, AFTER], ids=["ours first", "verifiers first"])
def test_our_errors_are_of_the_classes_that_verifiers_raises_and_catches(program: str) -> None:
    stdout_of(program)


@pytest.mark.slow
def test_a_driver_and_its_actors_are_up_without_what_environments_import() -> None:
    heavy = {"verifiers", "anthropic", "openai", "datasets", "pandas", "torch", "transformers", "vllm"}
    assert heavy & set(stdout_of(LIGHT).split()) == set()
