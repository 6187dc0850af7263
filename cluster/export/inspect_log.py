"""An eval log of Inspect, which `inspect view` opens and `inspect_ai.log.read_eval_log` reads."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.dataset.durable import replacing
from cluster.export.config import section
from cluster.export.conversations import parse_arguments
from cluster.observe.intervals import TaskValues
from cluster.observe.summary import Summary
from workers.records import EpisodeRecord, Message, StepRecord

_SCHEMA = 2
"""Version of the log's format."""
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_calls"}


def write_inspect_log(
    path: Path, records: Iterable[EpisodeRecord], summary: Summary, config: dict[str, Any]
) -> int:
    """Writes a run as a log in the format `.eval`: a zip file with a member for each sample.

    A task is a sample's id, a sample of Kumite an epoch of it. Reward and metrics are scores; each model call
    is an event. Failed episodes have an error and no score.

    Source: https://inspect.aisi.org.uk/reference/inspect_ai.log.html

    Args:
        path: The file.
        records: The episodes.
        summary: The run's summary.
        config: The run's config, as data.

    Returns:
        The number of samples.
    """
    summaries: list[dict[str, Any]] = []
    scores: dict[str, TaskValues] = {}
    tasks: dict[str, int] = {}
    models: set[str] = set()
    first, last = float("inf"), 0.0
    epochs = 1
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as file,
    ):
        for record in records:
            sample = _make_sample(record)
            task = tasks.setdefault(record.task_id, len(tasks))
            models.add(record.model)
            epochs = max(epochs, record.sample_index + 1)
            first = min(first, record.started_at)
            last = max(last, record.started_at + record.timings.total)
            for name, score in sample.get("scores", {}).items():
                scores.setdefault(name, TaskValues()).add(float(score["value"]), task)
            file.writestr(
                f"samples/{record.task_id}_epoch_{record.sample_index + 1}.json",
                json.dumps(sample, ensure_ascii=False),
            )
            summaries.append(_summarise_sample(sample))
        header = _make_header(summary, config, scores, len(tasks), epochs, sorted(models), len(summaries))
        header["stats"] = {"started_at": _time(min(first, last)), "completed_at": _time(last)}
        file.writestr(
            "_journal/start.json", json.dumps({key: header[key] for key in ("version", "eval", "plan")})
        )
        file.writestr("summaries.json", json.dumps(summaries, ensure_ascii=False))
        file.writestr("header.json", json.dumps(header, ensure_ascii=False))
    return len(summaries)


def _make_header(
    summary: Summary,
    config: dict[str, Any],
    scores: dict[str, TaskValues],
    tasks: int,
    epochs: int,
    models: list[str],
    samples: int,
) -> dict[str, Any]:
    environment = summary.environment or "environment"
    results = [_make_score(name, values) for name, values in scores.items()]
    return {
        "version": _SCHEMA,
        "status": "success",
        "eval": {
            "run_id": summary.run_id,
            "created": _time(datetime.now(UTC).timestamp()),
            "task": environment,
            "task_id": summary.run_id,
            "task_args": section(config, "environment", "args"),
            "dataset": {"name": environment, "samples": tasks},
            "model": "/".join(["kumite", *models[:1]]),
            "config": {"epochs": epochs},
            "metadata": {"kumite_run": summary.run_id, "policy": section(config, "policy").get("kind")},
        },
        "plan": {"name": "plan", "steps": [{"solver": environment}]},
        "results": {
            "total_samples": samples,
            "completed_samples": summary.finished,
            "scores": results,
        },
    }


def _make_score(name: str, values: TaskValues) -> dict[str, Any]:
    found = values.estimate()
    numbers = {} if found is None else {"mean": found.value, "ci_low": found.low, "ci_high": found.high}
    metrics = {key: {"name": key, "value": number} for key, number in numbers.items()}
    return {"name": name, "scorer": name, "scored_samples": len(values), "metrics": metrics}


def _make_sample(record: EpisodeRecord) -> dict[str, Any]:
    steps = record.steps
    opening = steps[0].prompt_messages if steps else record.messages
    errors = {
        call.id: failed
        for step in steps
        for call, failed in zip(step.action.tool_calls or [], step.tool_errors or [], strict=False)
    }
    labels = (
        "episode_id",
        "suite",
        "user_task",
        "injection_task",
        "attack",
        "defense",
        "stop_reason",
        "split",
    )
    sample: dict[str, Any] = {
        "id": record.task_id,
        "epoch": record.sample_index + 1,
        "input": [_to_message(message, errors) for message in opening],
        "target": "",
        "messages": [_to_message(message, errors) for message in record.messages],
        "output": _make_output(record, steps[-1]) if steps else {"model": record.model, "choices": []},
        "metadata": {name: value for name in labels if (value := getattr(record, name)) is not None},
        "model_usage": {record.model: _usage(record.usage.prompt_tokens, record.usage.completion_tokens)},
        "started_at": _time(record.started_at),
        "completed_at": _time(record.started_at + record.timings.total),
        "total_time": record.timings.total,
        "working_time": max(0.0, record.timings.total - record.timings.queue),
        "uuid": record.episode_id,
        "events": list(_make_events(record, errors)),
    }
    if record.details is not None:
        sample["metadata"]["details"] = json.loads(record.details)
    if record.error is not None:
        message = f"{record.error.type}: {record.error.message}"
        sample["error"] = {
            "message": f"{record.error.stage}: {message}",
            "traceback": record.error.traceback or message,
            "traceback_ansi": record.error.traceback or message,
        }
    else:
        values = {"reward": record.reward, **json.loads(record.metrics)}
        sample["scores"] = {
            name: {"value": value} for name, value in values.items() if isinstance(value, int | float)
        }
    return sample


def _make_events(record: EpisodeRecord, errors: dict[str, bool]) -> Iterator[dict[str, Any]]:
    """Per step an event of the model, then one of each tool call that was answered."""
    now = record.started_at + record.timings.queue + record.timings.setup
    tools = {step.step_index: record.tools_of(step) for step in record.steps}
    for step in record.steps:
        yield {
            "event": "model",
            "uuid": f"{record.episode_id}-{step.step_index}",
            "timestamp": _time(now),
            "completed": _time(now + step.policy_seconds),
            "working_start": max(0.0, now - record.started_at),
            "working_time": step.policy_seconds,
            "model": record.model,
            "input": [_to_message(message, errors) for message in step.prompt_messages],
            "tools": [_to_tool(tool) for tool in tools[step.step_index]],
            "tool_choice": "auto",
            "config": {},
            "output": _make_output(record, step),
        }
        now += step.policy_seconds
        results = {message.tool_call_id: message for message in step.observations}
        for place, call in enumerate(step.action.tool_calls or []):
            answer = results.get(call.id)
            if answer is not None:
                arguments = parse_arguments(call.function.arguments)
                yield {
                    "event": "tool",
                    "uuid": f"{record.episode_id}-{step.step_index}-{place}",
                    "timestamp": _time(now),
                    "completed": _time(now + step.tools_seconds),
                    "working_start": max(0.0, now - record.started_at),
                    "id": call.id,
                    "function": call.function.name,
                    "arguments": arguments if isinstance(arguments, dict) else {"text": arguments},
                    "result": answer.content or "",
                }
        now += step.tools_seconds


def _to_tool(tool: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = tool.get("parameters") or {}
    parameters: dict[str, Any] = {"type": "object", "properties": given.get("properties") or {}}
    parameters["required"] = given.get("required") or []
    return {"name": tool["name"], "description": tool.get("description") or "", "parameters": parameters}


def _make_output(record: EpisodeRecord, step: StepRecord) -> dict[str, Any]:
    reason = _STOP_REASONS.get(step.finish_reason or "", "stop")
    output: dict[str, Any] = {
        "model": record.model,
        "choices": [{"message": _to_message(step.action, {}), "stop_reason": reason}],
        "time": step.policy_seconds,
    }
    if step.usage is not None:
        output["usage"] = _usage(step.usage.prompt_tokens, step.usage.completion_tokens)
    return output


def _to_message(message: Message, errors: dict[str, bool]) -> dict[str, Any]:
    role = message.role if message.role in ("system", "user", "assistant", "tool") else "user"
    content: Any = message.content or ""
    if message.reasoning_content:
        content = [
            {"type": "reasoning", "reasoning": message.reasoning_content},
            *([{"type": "text", "text": content}] if content else []),
        ]
    made: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant" and message.tool_calls:
        made["tool_calls"] = [
            _to_call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls
        ]
    if role == "tool":
        made["tool_call_id"] = message.tool_call_id
        if errors.get(message.tool_call_id or ""):
            made["error"] = {"type": "unknown", "message": message.content or ""}
    return made


def _to_call(call_id: str, name: str, text: str) -> dict[str, Any]:
    arguments = parse_arguments(text)
    made: dict[str, Any] = {"id": call_id, "function": name, "type": "function"}
    if isinstance(arguments, dict):
        return {**made, "arguments": arguments}
    return {**made, "arguments": {}, "parse_error": f"the arguments are no JSON object: {text}"}


def _summarise_sample(sample: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "id",
        "epoch",
        "input",
        "target",
        "metadata",
        "scores",
        "model_usage",
        "started_at",
        "completed_at",
    )
    made = {name: sample[name] for name in (*kept, "total_time", "working_time", "uuid") if name in sample}
    made["input"] = [
        {"role": message["role"], "content": str(message["content"])[:1000]}
        for message in sample["input"][-1:]
    ]
    made["completed"] = True
    made["message_count"] = len(sample["messages"])
    if "error" in sample:
        made["error"] = sample["error"]["message"]
    return made


def _usage(prompt: int, sampled: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": sampled, "total_tokens": prompt + sampled}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
