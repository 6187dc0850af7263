"""Changes of good runs' files, to plant errors with: of episodes, steps, sequences, manifests and bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.dataset.arrow import pa, pq
from cluster.dataset.manifest import Shard, load_manifest, write_manifest
from cluster.dataset.schemas import EPISODES, STATES, STEP_KEYS, STEPS
from cluster.dataset.sequences import SEQUENCES
from cluster.dataset.shards import file_sha256

Row = dict[str, Any]


def of_episode(change: Callable[[Row], None]) -> Callable[[Path], None]:
    """Changes the first episode; the files' digests and row numbers are made to fit."""
    return of_episodes(lambda episodes: change(episodes[0]))


def of_step(index: int, change: Callable[[Row], None]) -> Callable[[Path], None]:
    """Changes one step of the first episode."""
    return of_episode(lambda episode: change(episode["steps"][index]))


def of_episodes(change: Callable[[list[Row]], object]) -> Callable[[Path], None]:
    """Changes all episodes; the files' digests and row numbers are made to fit."""

    def plant(run: Path) -> None:
        manifest = load_manifest(run)
        (shard,) = manifest.shards
        rows = read_rows(run, shard)
        change(rows)
        write_rows(run, shard, rows)
        shard.episodes, shard.steps = len(rows), sum(len(row["steps"]) for row in rows)
        shard.episodes_sha256 = file_sha256(run / shard.episodes_file)
        shard.steps_sha256 = file_sha256(run / shard.steps_file)
        write_manifest(run, manifest)

    return plant


def read_rows(run: Path, shard: Shard) -> list[Row]:
    """A shard's episodes, with their steps inside."""
    steps = pq.read_table(run / shard.steps_file).to_pylist()
    rows = pq.read_table(run / shard.episodes_file).to_pylist()
    for row in rows:
        row["steps"] = [step for step in steps if step["episode_id"] == row["episode_id"]]
    return rows


def write_rows(run: Path, shard: Shard, rows: list[Row]) -> None:
    """Writes a shard's two files of episodes with their steps inside."""
    steps = [{**step, **{key: row[key] for key in STEP_KEYS}} for row in rows for step in row["steps"]]
    pq.write_table(pa.Table.from_pylist(steps, schema=STEPS), run / shard.steps_file)
    pq.write_table(pa.Table.from_pylist(rows, schema=EPISODES), run / shard.episodes_file)


def of_sequences(change: Callable[[list[Row]], object]) -> Callable[[Path], None]:
    """Changes the rows of the run's written sequences."""

    def plant(run: Path) -> None:
        path = run / "sequences" / "grpo.parquet"
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=SEQUENCES), path)

    return plant


def of_manifest(change: Callable[[Row], None], name: str = "manifest.json") -> Callable[[Path], None]:
    """Changes a JSON file of the run."""

    def plant(run: Path) -> None:
        data = json.loads((run / name).read_bytes())
        change(data)
        (run / name).write_text(json.dumps(data))

    return plant


def setting(**values: Any) -> Callable[[Row], None]:
    """Sets fields."""
    return lambda row: row.update(values)


def rotate(step: Row) -> None:
    ids = step["completion_token_ids"]
    step["completion_token_ids"] = [*ids[1:], ids[0]]


def all_the_same(step: Row) -> None:
    step["completion_token_ids"] = [step["completion_token_ids"][0]] * len(step["completion_token_ids"])


def without_ids(step: Row) -> None:
    step.update(prompt_token_ids=None, completion_token_ids=None, completion_logprobs=None)


def logprobs(change: Callable[[list[float]], list[float]]) -> Callable[[Row], None]:
    return lambda step: step.update(completion_logprobs=change(step["completion_logprobs"]))


def swapped_ids(episode: Row) -> None:
    first, second = episode["steps"][:2]
    for name in ("completion_token_ids", "completion_logprobs", "usage"):
        first[name], second[name] = second[name], first[name]
    for step in (first, second):
        step["usage"] = {
            "prompt_tokens": len(step["prompt_token_ids"]),
            "completion_tokens": len(step["completion_token_ids"]),
        }


def longer_prompt(step: Row) -> None:
    step["prompt_token_ids"] = [step["prompt_token_ids"][0], *step["prompt_token_ids"]]
    step["usage"]["prompt_tokens"] += 1


def other_prompt(step: Row) -> None:
    step["prompt_token_ids"][20] = (step["prompt_token_ids"][20] + 1) % 256


def tokenised_anew(episode: Row) -> None:
    """The spaces that the policy sampled in its call are those of the template in the next prompt."""
    first, second = episode["steps"][:2]
    begins = len(first["prompt_token_ids"])
    ids = second["prompt_token_ids"]
    double = next(i for i in range(begins, len(ids) - 1) if ids[i] == ids[i + 1])
    second["prompt_token_ids"] = [*ids[:double], *ids[double + 1 :]]
    second["usage"]["prompt_tokens"] -= 1
    episode["usage"]["prompt_tokens"] -= 1


def call(change: Callable[[Row], None]) -> Callable[[Row], None]:
    return lambda step: change(step["action"]["tool_calls"][0])


def versions(each: Callable[[int], int]) -> Callable[[Row], None]:
    def change(episode: Row) -> None:
        for step in episode["steps"]:
            step["policy_version"] = each(step["policy_version"])
        episode["policy_version"] = episode["steps"][0]["policy_version"]
        episode["last_policy_version"] = episode["steps"][-1]["policy_version"]

    return change


def renumber(steps: list[Row]) -> None:
    for index, step in enumerate(steps):
        step["step_index"] = index


def drop(index: int) -> Callable[[Row], None]:
    def change(episode: Row) -> None:
        del episode["steps"][index]
        renumber(episode["steps"])

    return change


def double(episode: Row) -> None:
    episode["steps"].insert(1, json.loads(json.dumps(episode["steps"][0])))
    renumber(episode["steps"])


def reorder(episode: Row) -> None:
    steps = episode["steps"]
    steps[0], steps[1] = steps[1], steps[0]
    renumber(steps)


def uncalled(episode: Row) -> None:
    """No call is left of the first turn, nowhere, but for its answer."""
    for message in messages(episode):
        message["tool_calls"] = None if message["tool_calls"] else message["tool_calls"]


def other_answer(episode: Row) -> None:
    for message in messages(episode):
        if message["role"] == "tool":
            message["tool_call_id"] = "call_of_nobody"


def messages(episode: Row) -> list[Row]:
    found = list(episode["messages"])
    for step in episode["steps"]:
        found += [*step["prompt_messages"], step["action"], *step["observations"]]
    return found


def doubled_episode(episodes: list[Row]) -> None:
    episodes.append(json.loads(json.dumps(episodes[0])))
    episodes[-1]["steps"] = []


def shard_file(table: str, run: Path) -> Path:
    return run / str(getattr(load_manifest(run).shards[0], f"{table}_file"))


def other_state(run: Path) -> None:
    """Changes a number of the base state, to which the patches apply all the same."""
    path = next((run / "states").glob("*.parquet"))
    (row,) = pq.read_table(path).to_pylist()
    state = json.loads(row["state"])
    state["bank_account"]["balance"] += 1.0
    pq.write_table(pa.Table.from_pylist([{**row, "state": json.dumps(state)}], schema=STATES), path)


def flip_byte(table: str) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        path = shard_file(table, run)
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)

    return plant


def steps_of_nobody(run: Path) -> None:
    manifest = load_manifest(run)
    (shard,) = manifest.shards
    table = pq.read_table(run / shard.episodes_file)
    pq.write_table(table.slice(1), run / shard.episodes_file)
    shard.episodes -= 1
    shard.episodes_sha256 = file_sha256(run / shard.episodes_file)
    write_manifest(run, manifest)


def shift_mask(rows: list[Row]) -> None:
    rows[0]["loss_mask"] = [0, *rows[0]["loss_mask"][:-1]]


def first_sampled(row: Row) -> int:
    return row["loss_mask"].index(1)


def other_id(rows: list[Row]) -> None:
    rows[0]["input_ids"][first_sampled(rows[0])] ^= 1


def other_logprob(rows: list[Row]) -> None:
    rows[0]["logprobs"][first_sampled(rows[0])] = -3.5
