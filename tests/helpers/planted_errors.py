"""Errors to plant in good runs, one at a time, each with the rule of `kumite verify` that is to find it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.verify.report import Rule
from tests.helpers.run_changes import (
    all_the_same,
    call,
    double,
    doubled_episode,
    drop,
    flip_byte,
    logprobs,
    longer_prompt,
    of_episode,
    of_episodes,
    of_manifest,
    of_sequences,
    of_step,
    other_answer,
    other_id,
    other_logprob,
    other_prompt,
    other_state,
    reorder,
    rotate,
    setting,
    shard_file,
    shift_mask,
    steps_of_nobody,
    swapped_ids,
    tokenised_anew,
    uncalled,
    versions,
    without_ids,
)
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


ERRORS: list[PlantedError] = [
    PlantedError("sampled ids rotated by one", "per_turn", "actions", of_step(0, rotate)),
    PlantedError("sampled ids all the same", "per_turn", "actions", of_step(2, all_the_same)),
    PlantedError("sampled ids of two steps swapped", "per_turn", "actions", of_episode(swapped_ids)),
    PlantedError("sampled ids rotated by one", "exact", "actions", of_step(0, rotate)),
    PlantedError("sampled ids rotated by one", "endpoint", "actions", of_step(0, rotate)),
    PlantedError("ids of a step null", "per_turn", "lengths", of_step(1, without_ids)),
    PlantedError(
        "all ids null",
        "per_turn",
        "lengths",
        of_episodes(lambda rows: [without_ids(step) for row in rows for step in row["steps"]]),
    ),
    PlantedError("ids of a step null", "exact", "lengths", of_step(2, without_ids)),
    PlantedError("ids of a step null", "endpoint", "lengths", of_step(1, without_ids)),
    PlantedError(
        "log-probabilities null", "per_turn", "lengths", of_step(1, setting(completion_logprobs=None))
    ),
    PlantedError(
        "log-probabilities reversed", "per_turn", "digests", of_step(0, logprobs(lambda p: p[::-1]))
    ),
    PlantedError(
        "log-probabilities all 0", "per_turn", "lengths", of_step(0, logprobs(lambda p: [0.0] * len(p)))
    ),
    PlantedError(
        "log-probabilities all 0", "exact", "lengths", of_step(1, logprobs(lambda p: [0.0] * len(p)))
    ),
    PlantedError(
        "log-probabilities positive", "per_turn", "lengths", of_step(0, logprobs(lambda p: [-x for x in p]))
    ),
    PlantedError("a log-probability missing", "per_turn", "lengths", of_step(0, logprobs(lambda p: p[1:]))),
    PlantedError(
        "a log-probability NaN", "per_turn", "lengths", of_step(0, logprobs(lambda p: [math.nan, *p[1:]]))
    ),
    PlantedError("a prompt id changed", "per_turn", "prompts", of_step(0, other_prompt)),
    PlantedError("a prompt id added", "exact", "prompts", of_step(0, longer_prompt)),
    PlantedError("a prompt id changed", "endpoint", "prompts", of_step(2, other_prompt)),
    PlantedError("a turn tokenised again", "exact", "append_only", of_episode(tokenised_anew)),
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
        of_step(0, call(lambda call: call["function"].update(name="multiply"))),
    ),
    PlantedError(
        "a call's arguments replaced",
        "exact",
        "actions",
        of_step(0, call(lambda call: call["function"].update(arguments='{"a": 3, "b": 6}'))),
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
    PlantedError("all versions 90 too high", "per_turn", "versions", of_episode(versions(lambda v: v + 90))),
    PlantedError("all versions 1 too low", "exact", "versions", of_episode(versions(lambda v: v - 1))),
    PlantedError("a version null", "per_turn", "versions", of_step(1, setting(policy_version=None))),
    PlantedError("a step dropped in the middle", "per_turn", "steps", of_episode(drop(1))),
    PlantedError("the last step dropped", "bare", "steps", of_episode(drop(-1))),
    PlantedError("the first step dropped", "per_turn", "usage", of_episode(drop(0))),
    PlantedError("a step doubled", "bare", "steps", of_episode(double)),
    PlantedError("steps reordered", "oracle", "steps", of_episode(reorder)),
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
    PlantedError("a tool result without a call", "bare", "tools", of_episode(uncalled)),
    PlantedError("a tool result that answers another call", "bare", "tools", of_episode(other_answer)),
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
        "the episode's cached tokens wrong",
        "bare",
        "usage",
        of_episode(lambda e: e["usage"].update(cached_tokens=1)),
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
    PlantedError("an episode doubled", "bare", "episodes", of_episodes(doubled_episode)),
    PlantedError("an episode dropped", "per_turn", "counts", of_episodes(lambda rows: rows.pop(1))),
    PlantedError("more episodes planned", "oracle", "counts", of_manifest(setting(planned=6))),
    PlantedError("fewer episodes planned", "oracle", "counts", of_manifest(setting(planned=2))),
    PlantedError(
        "episodes counted as cancelled that are there", "bare", "counts", of_manifest(setting(cancelled=1))
    ),
    PlantedError(
        "a mean in the summary changed", "bare", "counts", of_manifest(setting(reward=0.9), "summary.json")
    ),
    PlantedError(
        "a mean of a suite in the summary changed",
        "oracle",
        "counts",
        of_manifest(lambda summary: summary["rows"][0].update(utility=0.5), "summary.json"),
    ),
    PlantedError(
        "an interval in the summary changed",
        "per_turn",
        "counts",
        of_manifest(lambda summary: summary["means"]["reward"].update(low=-1.0), "summary.json"),
    ),
    PlantedError(
        "cached tokens in the summary changed",
        "per_turn",
        "counts",
        of_manifest(setting(cached_tokens=1), "summary.json"),
    ),
    PlantedError("a byte of the episodes changed", "bare", "files", flip_byte("episodes")),
    PlantedError("a byte of the steps changed", "per_turn", "files", flip_byte("steps")),
    PlantedError("a shard's steps missing", "exact", "files", lambda run: shard_file("steps", run).unlink()),
    PlantedError(
        "a shard's episodes missing", "bare", "files", lambda run: shard_file("episodes", run).unlink()
    ),
    PlantedError(
        "a shard that the manifest does not name",
        "oracle",
        "files",
        lambda run: (run / "episodes" / "000009.parquet").write_bytes(
            shard_file("episodes", run).read_bytes()
        ),
    ),
    PlantedError("a shard taken out of the manifest", "bare", "files", of_manifest(setting(shards=[]))),
    PlantedError("steps of an episode that is not there", "bare", "files", steps_of_nobody),
    PlantedError(
        "a base state's file missing",
        "oracle",
        "files",
        lambda run: next((run / "states").glob("*.parquet")).unlink(),
    ),
    PlantedError("a base state changed under its id", "oracle", "files", other_state),
    PlantedError(
        "a shifted mask in the written sequences", "per_turn", "sequences", of_sequences(shift_mask)
    ),
    PlantedError("a shifted mask in the written sequences", "exact", "sequences", of_sequences(shift_mask)),
    PlantedError("an id changed in the written sequences", "endpoint", "sequences", of_sequences(other_id)),
    PlantedError(
        "a log-probability changed in the written sequences",
        "exact",
        "sequences",
        of_sequences(other_logprob),
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
