"""Errors to plant in good runs, one at a time, each with the rule of `kumite verify` that is to find it."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.dataset.arrow import pa, pq
from cluster.dataset.manifest import Shard, load_manifest, write_manifest
from cluster.dataset.schemas import EPISODES, STEP_KEYS, STEPS
from cluster.dataset.sequences import SEQUENCES
from cluster.dataset.shards import file_sha256
from cluster.verify.report import Rule
from tests.helpers.verified_runs import RunKind

Row = dict[str, Any]


@dataclass(frozen=True)
class PlantedError:
    """An error."""

    name: str
    """What is wrong with the run."""
    kind: RunKind
    """The kind of run that it is planted in."""
    rule: Rule
    """The rule that is to find it."""
    plant: Callable[[Path], object]
    """Plants it in a run's folder."""


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


def _rotate(step: Row) -> None:
    ids = step["completion_token_ids"]
    step["completion_token_ids"] = [*ids[1:], ids[0]]


def _all_the_same(step: Row) -> None:
    step["completion_token_ids"] = [step["completion_token_ids"][0]] * len(step["completion_token_ids"])


def _without_ids(step: Row) -> None:
    step.update(prompt_token_ids=None, completion_token_ids=None, completion_logprobs=None)


def _logprobs(change: Callable[[list[float]], list[float]]) -> Callable[[Row], None]:
    return lambda step: step.update(completion_logprobs=change(step["completion_logprobs"]))


def _swapped_ids(episode: Row) -> None:
    first, second = episode["steps"][:2]
    for name in ("completion_token_ids", "completion_logprobs", "usage"):
        first[name], second[name] = second[name], first[name]
    for step in (first, second):
        step["usage"] = {
            "prompt_tokens": len(step["prompt_token_ids"]),
            "completion_tokens": len(step["completion_token_ids"]),
        }


def _longer_prompt(step: Row) -> None:
    step["prompt_token_ids"] = [step["prompt_token_ids"][0], *step["prompt_token_ids"]]
    step["usage"]["prompt_tokens"] += 1


def _other_prompt(step: Row) -> None:
    step["prompt_token_ids"][20] = (step["prompt_token_ids"][20] + 1) % 256


def _tokenised_anew(episode: Row) -> None:
    """The spaces that the policy sampled in its call are those of the template in the next prompt."""
    first, second = episode["steps"][:2]
    begins = len(first["prompt_token_ids"])
    ids = second["prompt_token_ids"]
    double = next(i for i in range(begins, len(ids) - 1) if ids[i] == ids[i + 1])
    second["prompt_token_ids"] = [*ids[:double], *ids[double + 1 :]]
    second["usage"]["prompt_tokens"] -= 1
    episode["usage"]["prompt_tokens"] -= 1


def _call(change: Callable[[Row], None]) -> Callable[[Row], None]:
    return lambda step: change(step["action"]["tool_calls"][0])


def _versions(each: Callable[[int], int]) -> Callable[[Row], None]:
    def change(episode: Row) -> None:
        for step in episode["steps"]:
            step["policy_version"] = each(step["policy_version"])
        episode["policy_version"] = episode["steps"][0]["policy_version"]
        episode["last_policy_version"] = episode["steps"][-1]["policy_version"]

    return change


def _renumber(steps: list[Row]) -> None:
    for index, step in enumerate(steps):
        step["step_index"] = index


def _drop(index: int) -> Callable[[Row], None]:
    def change(episode: Row) -> None:
        del episode["steps"][index]
        _renumber(episode["steps"])

    return change


def _double(episode: Row) -> None:
    episode["steps"].insert(1, json.loads(json.dumps(episode["steps"][0])))
    _renumber(episode["steps"])


def _reorder(episode: Row) -> None:
    steps = episode["steps"]
    steps[0], steps[1] = steps[1], steps[0]
    _renumber(steps)


def _uncalled(episode: Row) -> None:
    """No call is left of the first turn, nowhere, but for its answer."""
    for message in _messages(episode):
        message["tool_calls"] = None if message["tool_calls"] else message["tool_calls"]


def _other_answer(episode: Row) -> None:
    for message in _messages(episode):
        if message["role"] == "tool":
            message["tool_call_id"] = "call_of_nobody"


def _messages(episode: Row) -> list[Row]:
    found = list(episode["messages"])
    for step in episode["steps"]:
        found += [*step["prompt_messages"], step["action"], *step["observations"]]
    return found


def _doubled_episode(episodes: list[Row]) -> None:
    episodes.append(json.loads(json.dumps(episodes[0])))
    episodes[-1]["steps"] = []


def _shard_file(table: str, run: Path) -> Path:
    return run / str(getattr(load_manifest(run).shards[0], f"{table}_file"))


def _flip_byte(table: str) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        path = _shard_file(table, run)
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)

    return plant


def _steps_of_nobody(run: Path) -> None:
    manifest = load_manifest(run)
    (shard,) = manifest.shards
    table = pq.read_table(run / shard.episodes_file)
    pq.write_table(table.slice(1), run / shard.episodes_file)
    shard.episodes -= 1
    shard.episodes_sha256 = file_sha256(run / shard.episodes_file)
    write_manifest(run, manifest)


def _shift_mask(rows: list[Row]) -> None:
    rows[0]["loss_mask"] = [0, *rows[0]["loss_mask"][:-1]]


def _first_sampled(row: Row) -> int:
    return row["loss_mask"].index(1)


def _other_id(rows: list[Row]) -> None:
    rows[0]["input_ids"][_first_sampled(rows[0])] ^= 1


def _other_logprob(rows: list[Row]) -> None:
    rows[0]["logprobs"][_first_sampled(rows[0])] = -3.5


ERRORS: list[PlantedError] = [
    PlantedError("sampled ids rotated by one", "per_turn", "actions", of_step(0, _rotate)),
    PlantedError("sampled ids all the same", "per_turn", "actions", of_step(2, _all_the_same)),
    PlantedError("sampled ids of two steps swapped", "per_turn", "actions", of_episode(_swapped_ids)),
    PlantedError("sampled ids rotated by one", "exact", "actions", of_step(0, _rotate)),
    PlantedError("sampled ids rotated by one", "endpoint", "actions", of_step(0, _rotate)),
    PlantedError("ids of a step null", "per_turn", "lengths", of_step(1, _without_ids)),
    PlantedError(
        "all ids null",
        "per_turn",
        "lengths",
        of_episodes(lambda rows: [_without_ids(step) for row in rows for step in row["steps"]]),
    ),
    PlantedError("ids of a step null", "exact", "lengths", of_step(2, _without_ids)),
    PlantedError("ids of a step null", "endpoint", "lengths", of_step(1, _without_ids)),
    PlantedError(
        "log-probabilities null", "per_turn", "lengths", of_step(1, setting(completion_logprobs=None))
    ),
    PlantedError(
        "log-probabilities reversed", "per_turn", "digests", of_step(0, _logprobs(lambda p: p[::-1]))
    ),
    PlantedError(
        "log-probabilities all 0", "per_turn", "lengths", of_step(0, _logprobs(lambda p: [0.0] * len(p)))
    ),
    PlantedError(
        "log-probabilities all 0", "exact", "lengths", of_step(1, _logprobs(lambda p: [0.0] * len(p)))
    ),
    PlantedError(
        "log-probabilities positive", "per_turn", "lengths", of_step(0, _logprobs(lambda p: [-x for x in p]))
    ),
    PlantedError("a log-probability missing", "per_turn", "lengths", of_step(0, _logprobs(lambda p: p[1:]))),
    PlantedError(
        "a log-probability NaN", "per_turn", "lengths", of_step(0, _logprobs(lambda p: [math.nan, *p[1:]]))
    ),
    PlantedError("a prompt id changed", "per_turn", "prompts", of_step(0, _other_prompt)),
    PlantedError("a prompt id added", "exact", "prompts", of_step(0, _longer_prompt)),
    PlantedError("a prompt id changed", "endpoint", "prompts", of_step(2, _other_prompt)),
    PlantedError("a turn tokenised again", "exact", "append_only", of_episode(_tokenised_anew)),
    PlantedError(
        "the action's text replaced",
        "per_turn",
        "actions",
        of_step(2, lambda s: s["action"].update(content="Twelve.")),
    ),
    PlantedError(
        "the action's text dropped",
        "per_turn",
        "actions",
        of_step(2, lambda s: s["action"].update(content=None)),
    ),
    PlantedError(
        "the action's text replaced",
        "exact",
        "actions",
        of_step(2, lambda s: s["action"].update(content="Twelve.")),
    ),
    PlantedError(
        "the action's text replaced",
        "endpoint",
        "actions",
        of_step(2, lambda s: s["action"].update(content="Twelve.")),
    ),
    PlantedError(
        "reasoning added",
        "per_turn",
        "actions",
        of_step(2, lambda s: s["action"].update(reasoning_content="hm")),
    ),
    PlantedError(
        "a call's tool replaced",
        "per_turn",
        "actions",
        of_step(0, _call(lambda call: call["function"].update(name="multiply"))),
    ),
    PlantedError(
        "a call's arguments replaced",
        "exact",
        "actions",
        of_step(0, _call(lambda call: call["function"].update(arguments='{"a": 3, "b": 6}'))),
    ),
    PlantedError(
        "a call dropped",
        "per_turn",
        "actions",
        of_step(0, lambda step: step["action"].update(tool_calls=None)),
    ),
    PlantedError(
        "a version lower than in the step before",
        "per_turn",
        "versions",
        of_step(1, setting(policy_version=3)),
    ),
    PlantedError(
        "the episode's first version changed", "per_turn", "versions", of_episode(setting(policy_version=3))
    ),
    PlantedError(
        "the episode's last version changed", "exact", "versions", of_episode(setting(last_policy_version=5))
    ),
    PlantedError("all versions 90 too high", "per_turn", "versions", of_episode(_versions(lambda v: v + 90))),
    PlantedError("all versions 1 too low", "exact", "versions", of_episode(_versions(lambda v: v - 1))),
    PlantedError("a version null", "per_turn", "versions", of_step(1, setting(policy_version=None))),
    PlantedError("a step dropped in the middle", "per_turn", "steps", of_episode(_drop(1))),
    PlantedError("the last step dropped", "bare", "steps", of_episode(_drop(-1))),
    PlantedError("the first step dropped", "per_turn", "usage", of_episode(_drop(0))),
    PlantedError("a step doubled", "bare", "steps", of_episode(_double)),
    PlantedError("steps reordered", "oracle", "steps", of_episode(_reorder)),
    PlantedError("steps numbered from 1", "bare", "steps", of_step(0, setting(step_index=1))),
    PlantedError("done before the end", "bare", "steps", of_step(0, setting(done=True))),
    PlantedError("not done at the end", "oracle", "steps", of_step(-1, setting(done=False))),
    PlantedError(
        "an observation replaced",
        "bare",
        "steps",
        of_step(0, lambda s: s["observations"][0].update(content="9")),
    ),
    PlantedError(
        "a message of the conversation replaced",
        "bare",
        "steps",
        of_episode(lambda episode: episode["messages"][-1].update(content="Nine.")),
    ),
    PlantedError("a tool result without a call", "bare", "tools", of_episode(_uncalled)),
    PlantedError("a tool result that answers another call", "bare", "tools", of_episode(_other_answer)),
    PlantedError(
        "a state patch that does not apply",
        "oracle",
        "states",
        of_step(0, setting(state_patch='[{"op": "remove", "path": "/no/such/place"}]')),
    ),
    PlantedError("a state patch that is not JSON", "oracle", "states", of_step(0, setting(state_patch="[{"))),
    PlantedError("a state patch null", "oracle", "states", of_step(0, setting(state_patch=None))),
    PlantedError(
        "the base state changed", "oracle", "states", of_episode(setting(initial_state_id="another"))
    ),
    PlantedError("a reward NaN", "bare", "rewards", of_episode(setting(reward=math.nan))),
    PlantedError("a step reward infinite", "bare", "rewards", of_step(0, setting(reward=math.inf))),
    PlantedError("a failed episode with a reward", "bare", "rewards", of_episode(setting(status="failed"))),
    PlantedError(
        "a reward that does not fit the metrics", "oracle", "rewards", of_episode(setting(reward=0.25))
    ),
    PlantedError(
        "a reward that does not fit the summary", "bare", "counts", of_episode(setting(reward=0.25))
    ),
    PlantedError(
        "the episode's usage wrong", "bare", "usage", of_episode(lambda e: e["usage"].update(prompt_tokens=1))
    ),
    PlantedError(
        "a step's usage wrong",
        "per_turn",
        "lengths",
        of_step(1, lambda s: s["usage"].update(completion_tokens=1)),
    ),
    PlantedError(
        "a step's usage below 0", "bare", "lengths", of_step(0, lambda s: s["usage"].update(prompt_tokens=-3))
    ),
    PlantedError(
        "`length` instead of `stop`", "per_turn", "finish", of_step(2, setting(finish_reason="length"))
    ),
    PlantedError(
        "`length` instead of `stop`", "exact", "finish", of_step(2, setting(finish_reason="length"))
    ),
    PlantedError(
        "`stop` instead of `tool_calls`", "per_turn", "finish", of_step(0, setting(finish_reason="stop"))
    ),
    PlantedError(
        "`tool_calls` instead of `stop`", "bare", "finish", of_step(2, setting(finish_reason="tool_calls"))
    ),
    PlantedError("an unknown finish reason", "bare", "finish", of_step(2, setting(finish_reason="done"))),
    PlantedError("a time below 0", "oracle", "times", of_episode(lambda e: e["timings"].update(tools=-1.0))),
    PlantedError(
        "steps that take longer than their episode", "bare", "times", of_step(0, setting(policy_seconds=1e6))
    ),
    PlantedError("an episode dated 1970", "oracle", "times", of_episode(setting(started_at=1.5))),
    PlantedError(
        "an episode dated tomorrow",
        "bare",
        "times",
        of_episode(lambda e: e.update(started_at=e["started_at"] + 86400)),
    ),
    PlantedError(
        "an episode dated yesterday",
        "bare",
        "times",
        of_episode(lambda e: e.update(started_at=e["started_at"] - 86400)),
    ),
    PlantedError("`episode_id` changed", "bare", "episodes", of_episode(setting(episode_id="0" * 16))),
    PlantedError("`group_id` changed", "bare", "episodes", of_episode(setting(group_id="of nobody"))),
    PlantedError("`sample_index` changed", "oracle", "episodes", of_episode(setting(sample_index=7))),
    PlantedError(
        "`task_id` changed", "oracle", "episodes", of_episode(setting(task_id="banking/user_task_9"))
    ),
    PlantedError("`run_id` changed", "bare", "episodes", of_episode(setting(run_id="another"))),
    PlantedError("`model` changed", "per_turn", "episodes", of_episode(setting(model="another"))),
    PlantedError("an episode doubled", "bare", "episodes", of_episodes(_doubled_episode)),
    PlantedError("an episode dropped", "per_turn", "counts", of_episodes(lambda rows: rows.pop(1))),
    PlantedError("more episodes planned", "oracle", "counts", of_manifest(setting(planned=6))),
    PlantedError("fewer episodes planned", "oracle", "counts", of_manifest(setting(planned=2))),
    PlantedError(
        "episodes counted as cancelled that are there", "bare", "counts", of_manifest(setting(cancelled=1))
    ),
    PlantedError(
        "a mean in the summary changed", "bare", "counts", of_manifest(setting(reward=0.9), "summary.json")
    ),
    PlantedError("a byte of the episodes changed", "bare", "files", _flip_byte("episodes")),
    PlantedError("a byte of the steps changed", "per_turn", "files", _flip_byte("steps")),
    PlantedError("a shard's steps missing", "exact", "files", lambda run: _shard_file("steps", run).unlink()),
    PlantedError(
        "a shard's episodes missing", "bare", "files", lambda run: _shard_file("episodes", run).unlink()
    ),
    PlantedError(
        "a shard that the manifest does not name",
        "oracle",
        "files",
        lambda run: (run / "episodes" / "000009.parquet").write_bytes(
            _shard_file("episodes", run).read_bytes()
        ),
    ),
    PlantedError("a shard taken out of the manifest", "bare", "files", of_manifest(setting(shards=[]))),
    PlantedError("steps of an episode that is not there", "bare", "files", _steps_of_nobody),
    PlantedError(
        "a base state's file missing",
        "oracle",
        "files",
        lambda run: next((run / "states").glob("*.parquet")).unlink(),
    ),
    PlantedError(
        "a shifted mask in the written sequences", "per_turn", "sequences", of_sequences(_shift_mask)
    ),
    PlantedError("a shifted mask in the written sequences", "exact", "sequences", of_sequences(_shift_mask)),
    PlantedError("an id changed in the written sequences", "endpoint", "sequences", of_sequences(_other_id)),
    PlantedError(
        "a log-probability changed in the written sequences",
        "exact",
        "sequences",
        of_sequences(_other_logprob),
    ),
    PlantedError(
        "an advantage changed in the written sequences",
        "per_turn",
        "sequences",
        of_sequences(lambda rows: rows[0].update(advantage=0.5)),
    ),
    PlantedError(
        "a row missing in the written sequences", "exact", "sequences", of_sequences(lambda rows: rows.pop())
    ),
    PlantedError(
        "a row doubled in the written sequences",
        "exact",
        "sequences",
        of_sequences(lambda rows: rows.append(dict(rows[-1]))),
    ),
    PlantedError(
        "a version changed in the written sequences",
        "exact",
        "sequences",
        of_sequences(lambda rows: rows[0].update(policy_version=1)),
    ),
    PlantedError(
        "a reward changed in the written sequences",
        "exact",
        "sequences",
        of_sequences(lambda rows: rows[0].update(reward=7.0)),
    ),
]
