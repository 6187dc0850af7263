"""Closes the loop on one machine without a GPU: rollouts, a LoRA update by PEFT, rollouts with it, and so on.

`python examples/train_lora.py` plays the tasks of train_lora.yaml, and after each iteration takes a few
policy-gradient steps on a LoRA adapter, which the same deployment then serves as the next version. It prints
the mean reward by version. Needs the extra `train` (PEFT).
"""

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

from cluster.config import VllmPolicy
from cluster.config.file import load_config
from cluster.dataset.sequences import Sequence
from cluster.errors import ConfigError, RunError
from cluster.policy.models.models import resolve_model
from cluster.policy.vllm.cpu_precision import cpu_precision
from cluster.rollout_engine import RolloutEngine, RolloutGroup

CLIP = 0.2


class Trainer:
    """PPO's clipped objective over GRPO's advantages, on a LoRA adapter.

    Args:
        model: The base model's folder.
        steps: Passes over an iteration's sequences.
        learning_rate: AdamW's.
    """

    def __init__(self, model: Path, steps: int = 2, learning_rate: float = 1e-3) -> None:
        torch.manual_seed(0)
        # vLLM is on the same cores: threads that wait for each other beside it cost five times the CPU time.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        # As vLLM has it: some CPUs are four times as fast in bfloat16, others five times as fast in float32.
        # PEFT keeps the adapter in float32.
        base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, cpu_precision()))
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model: PeftModel = get_peft_model(base, config)
        self.steps = steps
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)

    def learn(self, sequences: list[Sequence]) -> None:
        """Takes a few steps; sequences without an advantage have nothing to teach."""
        useful = [sequence for sequence in sequences if abs(sequence.advantage) > 1e-3]
        if not useful:
            return
        batch = Batch(useful)
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            for part in batch.parts(size=8):
                logits = self.model(input_ids=part.ids, attention_mask=part.attention).logits[:, :-1]
                logprobs = torch.log_softmax(logits.float(), dim=-1)
                taken = logprobs.gather(-1, part.ids[:, 1:, None]).squeeze(-1)
                ratio = torch.exp(taken - part.logprobs[:, 1:])
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                gain = torch.minimum(ratio * part.advantages[:, None], clipped * part.advantages[:, None])
                # Divided by the whole batch's sampled tokens, so that parts add up to the batch.
                (-(gain * part.mask[:, 1:]).sum() / batch.sampled).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def save(self, folder: Path) -> Path:
        """Writes the adapter as the deployment takes it."""
        self.model.save_pretrained(folder)
        return folder


class Batch:
    """Sequences of an iteration as tensors, padded at the end."""

    def __init__(self, sequences: list[Sequence]) -> None:
        longest = max(len(sequence.input_ids) for sequence in sequences)

        def padded(rows: list[list[int]] | list[list[float]]) -> torch.Tensor:
            return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])

        self.ids = padded([sequence.input_ids for sequence in sequences])
        self.attention = padded([[1] * len(sequence.input_ids) for sequence in sequences])
        self.mask = padded([sequence.loss_mask for sequence in sequences]).float()
        self.logprobs = padded([sequence.logprobs for sequence in sequences])
        self.advantages = torch.tensor([sequence.advantage for sequence in sequences])
        self.sampled = self.mask.sum()

    def parts(self, size: int) -> "list[Batch]":
        """The batch in parts of so many sequences."""
        parts = []
        for first in range(0, len(self.ids), size):
            part = object.__new__(Batch)
            for name, tensor in vars(self).items():
                setattr(part, name, tensor[first : first + size] if tensor.dim() else tensor)
            parts.append(part)
        return parts


def mean_reward(groups: list[RolloutGroup]) -> float:
    """Mean over the finished episodes.

    Raises:
        RunError: None has finished.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    rewards = [episode.reward for episode in episodes if episode.reward is not None]
    if not rewards:
        said = Counter(f"{e.error.stage}: {e.error.message}" for e in episodes if e.error is not None)
        reasons = "".join(f"\n  {count} times {reason}" for reason, count in said.most_common(3))
        raise RunError(f"none of {len(episodes)} episodes has finished:{reasons}")
    return math.fsum(rewards) / len(rewards)


async def train(
    config: Path, iterations: int, tasks: int | None, samples: int | None, out: Path | None, console: Console
) -> list[float]:
    """Trains, and plays once more with the last version.

    Returns:
        The mean reward of each version, from the base model's on.
    """
    curve: list[float] = []
    run = load_config(config)
    if not isinstance(run.policy, VllmPolicy):
        raise ConfigError(f"policy.kind is {run.policy.kind!r} in {config}; training takes 'vllm'")
    async with RolloutEngine(run, out, console) as engine:
        model = resolve_model(run.policy.model, console.print)
        trainer = Trainer(Path(model.source))
        with tempfile.TemporaryDirectory() as scratch:
            if engine.version:  # of a kept deployment that was trained: a fresh adapter is the base model
                await engine.update_policy(trainer.save(Path(scratch) / "fresh"))
            for iteration in range(iterations + 1):
                groups = [group async for group in engine.rollouts(tasks, samples)]
                curve.append(mean_reward(groups))
                console.print(f"version {engine.version}: mean reward {curve[-1]:.3f}", highlight=False)
                if iteration < iterations:
                    began = time.monotonic()
                    sequences = [sequence for group in groups for sequence in group.sequences("grpo")]
                    await asyncio.to_thread(trainer.learn, sequences)
                    console.print(f"learned for {time.monotonic() - began:.0f} s", highlight=False)
                    await engine.update_policy(trainer.save(Path(scratch) / str(iteration)))
    return curve


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--tasks", type=int, default=None, help="tasks per iteration; default: all")
    parser.add_argument("--samples", type=int, default=None, help="rollouts per task; default: the config's")
    parser.add_argument("--out", type=Path, default=None, help="the run's folder")
    arguments = parser.parse_args()
    asyncio.run(
        train(
            arguments.config,
            arguments.iterations,
            arguments.tasks,
            arguments.samples,
            arguments.out,
            Console(),
        )
    )
