"""What the example of a trainer says when nothing has finished; its loop is in test_training_vllm."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from cluster.errors import RunError
from cluster.plan.iteration import RolloutGroup
from tests.cluster.synthetic import episode, failed_episode


@pytest.fixture(scope="module")
def train_lora() -> ModuleType:
    pytest.importorskip("peft")
    path = Path(__file__).parents[2] / "examples" / "train_lora.py"
    spec = importlib.util.spec_from_file_location("kumite_train_lora", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mean_reward_leaves_out_what_failed_and_says_why_where_all_has(train_lora: ModuleType):
    some = RolloutGroup("g", "t", [episode(1, reward=0.5), failed_episode(2), episode(3, reward=1.0)])
    assert train_lora.mean_reward([some]) == 0.75
    none = RolloutGroup("g", "t", [failed_episode(1), failed_episode(2)])
    with pytest.raises(RunError, match=r"none of 2 episodes has finished:\n  2 times setup: no such task"):
        train_lora.mean_reward([none])
