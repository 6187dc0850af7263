"""A folder of results as verifiers writes them, for its own tools."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.dataset.durable import replacing
from cluster.export.config import section
from cluster.export.conversations import to_openai_message
from cluster.observe.summary import Summary
from workers.records import EpisodeRecord


def write_verifiers_results(
    folder: Path, records: Iterable[EpisodeRecord], summary: Summary, config: dict[str, Any]
) -> int:
    """Writes `results.jsonl` and `metadata.json`, as `vf-eval --save-results` does.

    Args:
        folder: The folder.
        records: The episodes; all of them have finished.
        summary: The run's summary.
        config: The run's config, as data.

    Returns:
        The number of results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples: dict[str, int] = {}
    count = samples = 0
    metrics: dict[str, list[float]] = {}
    rewards: list[float] = []
    model, tools = "", "[]"
    with replacing(folder / "results.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            number = examples.setdefault(record.task_id, len(examples))
            row = _make_result(record, number)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
            model, tools = record.model, record.tool_schemas
            samples = max(samples, record.sample_index + 1)
            rewards.append(row["reward"])
            for name, value in row["metrics"].items():
                metrics.setdefault(name, []).append(value)
    policy = section(config, "policy")
    passes = [row for row in summary.passes if row.metric == "reward"]
    metadata: dict[str, Any] = {
        "env_id": summary.environment or "",
        "env_args": section(config, "environment", "args"),
        "model": model,
        "base_url": policy.get("base_url") or "",
        "num_examples": len(examples),
        "rollouts_per_example": samples,
        "sampling_args": {
            name: value for name, value in section(policy, "sampling").items() if value is not None
        },
        "time": summary.wall_seconds or 0.0,
        "avg_reward": sum(rewards) / len(rewards) if rewards else 0.0,
        "avg_metrics": {name: sum(values) / len(values) for name, values in metrics.items()},
        "avg_error": 0.0,
        "pass_at_k": {str(row.k): row.any_passes.value for row in passes},
        "pass_all_k": {str(row.k): row.all_pass.value for row in passes},
        "pass_threshold": 1.0,
        "usage": {
            "input_tokens": float(summary.prompt_tokens),
            "output_tokens": float(summary.completion_tokens),
        },
        "version_info": {},
        "state_columns": [],
        "tools": json.loads(tools),
    }
    with replacing(folder / "metadata.json") as temporary:
        temporary.write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")
    return count


def _make_result(record: EpisodeRecord, example: int) -> dict[str, Any]:
    prompt = record.steps[0].prompt_messages if record.steps else []
    completion = record.messages
    if completion[: len(prompt)] == prompt:
        completion = completion[len(prompt) :]
    metrics = {name: value for name, value in json.loads(record.metrics).items() if value is not None}
    timings = record.timings
    return {
        "example_id": example,
        "prompt": [to_openai_message(message, reasoning=True) for message in prompt],
        "completion": [to_openai_message(message, reasoning=True) for message in completion],
        "reward": record.reward if record.reward is not None else 0.0,
        "timing": {
            "start_time": record.started_at,
            "generation_ms": 1000 * (timings.policy + timings.tools),
            "scoring_ms": 1000 * timings.scoring,
            "total_ms": 1000 * timings.total,
        },
        "is_completed": True,
        "is_truncated": record.is_truncated,
        "stop_condition": record.stop_reason,
        "metrics": metrics,
        **{name: value for name, value in metrics.items() if name not in _RESULT_KEYS},
        "info": {"episode_id": record.episode_id, "task_id": record.task_id, "run_id": record.run_id},
        "tool_defs": record.tools,
        "token_usage": {
            "input_tokens": float(record.usage.prompt_tokens),
            "output_tokens": float(record.usage.completion_tokens),
        },
    }


_RESULT_KEYS = frozenset(
    (
        "example_id",
        "prompt",
        "completion",
        "reward",
        "timing",
        "is_completed",
        "is_truncated",
        "info",
        "metrics",
    )
)
"""Keys that a metric of the same name does not take the place of."""
