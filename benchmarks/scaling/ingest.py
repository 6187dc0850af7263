"""Synthetic episodes through journal and compaction: how many a second, and what memory the driver holds."""

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from cluster.dataset.dataset import Dataset
from workers.records import (
    EpisodeRecord,
    EpisodeResult,
    Message,
    StepRecord,
    TaskLabels,
    Timings,
    Usage,
    episode_id,
)

EPISODES, AT_ONCE, STEPS = 20_000, 256, 10
_WORDS = "the account of the customer was checked against the transfers of the month and found in order "


def make_result(number: int) -> EpisodeResult:
    """An episode of about 50 KB: ten steps of 2 KB of text with 100 sampled tokens each."""
    steps = [
        StepRecord(
            step_index=index,
            prompt_messages=[Message(role="user", content=_WORDS * 11 + str(number))],
            action=Message(role="assistant", content=_WORDS * 5 + str(index)),
            observations=[Message(role="tool", content=_WORDS * 5, tool_call_id="c")],
            done=index == STEPS - 1,
            completion_token_ids=[(number * 31 + token * 17) % 50_000 for token in range(100)],
            completion_logprobs=[-((number + token) % 100) / 37 for token in range(100)],
        )
        for index in range(STEPS)
    ]
    identity = episode_id("synthetic", str(number), 0)
    record = EpisodeRecord(
        episode_id=identity,
        task_id=str(number),
        group_id=f"run/{number}",
        sample_index=0,
        run_id="run",
        environment="synthetic",
        status="finished",
        reward=1.0,
        messages=[Message(role="user", content=_WORDS * 5)],
        steps=steps,
        model="none",
        usage=Usage(),
        timings=Timings(),
        started_at=0.0,
        worker_id="w",
        node_id="n",
    )
    return EpisodeResult(
        episode_id=identity,
        status="finished",
        reward=1.0,
        metrics={},
        labels=TaskLabels(),
        usage=Usage(),
        timings=Timings(),
        record=record.model_dump_json(),
    )


async def append_results(folder: Path) -> dict[str, float]:
    """Appends all, so many at a time, as so many workers would."""
    size = len(make_result(0).record)
    numbers = iter(range(EPISODES))
    memory: dict[int, float] = {}
    process = psutil.Process(os.getpid())
    done = 0
    # Made before the clock starts, and varied in one place: a driver gets its episodes as text.
    template = make_result(0)
    async with await Dataset.open(folder, "run") as dataset:

        async def place() -> None:
            nonlocal done
            for number in numbers:
                identity = episode_id("synthetic", str(number), 0)
                record = template.record.replace(template.episode_id, identity, 1)
                await dataset.append(template.model_copy(update={"episode_id": identity, "record": record}))
                done += 1
                if done in (1_000, EPISODES):
                    memory[done] = process.memory_info().rss / 2**20

        began = time.monotonic()
        await asyncio.gather(*(place() for _ in range(AT_ONCE)))
        journalled = time.monotonic() - began
        await dataset.commit()
        committed = time.monotonic() - began
    return {
        "size": size,
        "journalled": journalled,
        "committed": committed,
        "early": memory[1_000],
        "late": memory[EPISODES],
    }


def main(console: Console) -> None:
    """Measures, and prints the table."""
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-", dir=".") as folder:
        found = asyncio.run(append_results(Path(folder, "run")))
        manifest = json.loads(Path(folder, "run", "manifest.json").read_text())
    assert sum(shard["episodes"] for shard in manifest["shards"]) == EPISODES
    table = Table(title=f"Ingest: {EPISODES:,} episodes of {found['size'] / 1000:.0f} KB, fsynced")
    for column in ("acknowledged/s", "to Parquet/s", "MiB at 1,000", "MiB at 20,000", "growth"):
        table.add_column(column, justify="right")
    growth = found["late"] - found["early"]
    table.add_row(
        f"{EPISODES / found['journalled']:,.0f}",
        f"{EPISODES / found['committed']:,.0f}",
        f"{found['early']:.0f}",
        f"{found['late']:.0f}",
        f"{growth:+.0f} MiB {'✓' if growth < 100 else '✗'}",
    )
    console.print(table)
