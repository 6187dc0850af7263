"""Branches in a dataset: a training sequence each, and what `kumite verify` holds them to."""

from pathlib import Path
from typing import Any, cast

from cluster.config import RunConfig
from cluster.dataset.sequences import sequences_of
from cluster.verify import episode_rules, sequence_rules
from cluster.verify.run_context import RunContext
from workers.records import EpisodeRecord, Message, StepRecord, Timings, Usage
from workers.settings import SamplingSettings

USER = Message(role="user", content="go")


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def step(index: int, branch: int, parent: int | None, prompt: list[Message], ids: list[int]) -> StepRecord:
    """A step that samples the two ids `10 × index` and the next."""
    return StepRecord(
        step_index=index,
        prompt_messages=prompt,
        action=said(f"answer {index}"),
        observations=[],
        done=False,
        prompt_token_ids=ids,
        completion_token_ids=[10 * index, 10 * index + 1],
        completion_logprobs=[-0.5, -0.25],
        policy_version=0,
        agent="codex",
        branch=branch,
        parent_step=parent,
        dialect="responses",
    )


def episode(**changes: Any) -> EpisodeRecord:
    """Two branches: 0 has the steps 0, 2 and 3, with 1 of branch 1 between them, which left from step 0."""
    more, last = Message(role="user", content="more"), Message(role="user", content="last")
    fork = Message(role="user", content="otherwise")
    begun = [USER, said("answer 0")]
    steps = [
        step(0, 0, None, [USER], [1, 2]),
        step(1, 1, 0, [*begun, fork], [1, 2, 0, 1, 7]),
        step(2, 0, 0, [*begun, more], [1, 2, 0, 1, 3]),
        step(3, 0, 2, [*begun, more, said("answer 2"), last], [1, 2, 0, 1, 3, 20, 21, 4]),
    ]
    steps[0].observations, steps[2].observations, steps[3].done = [more], [last], True
    fields: dict[str, Any] = {
        "episode_id": "e",
        "task_id": "t",
        "group_id": "g",
        "sample_index": 0,
        "run_id": "r",
        "environment": "shell",
        "status": "finished",
        "reward": 1.0,
        "messages": [*steps[3].prompt_messages, steps[3].action],
        "steps": steps,
        "model": "m",
        "usage": Usage(),
        "timings": Timings(),
        "started_at": 0.0,
        "worker_id": "w",
        "node_id": "n",
    }
    return EpisodeRecord(**{**fields, **changes})


def test_each_branch_is_a_sequence_and_no_sampled_id_is_in_two() -> None:
    main, fork = sequences_of(episode())
    assert main.input_ids == [1, 2, 0, 1, 3, 20, 21, 4, 30, 31]
    assert main.loss_mask == [0, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert fork.input_ids == [1, 2, 0, 1, 7, 10, 11]
    assert fork.loss_mask == [0, 0, 0, 0, 0, 1, 1]
    assert [(s.branch, s.first_step, s.last_step) for s in (main, fork)] == [(0, 0, 3), (1, 1, 1)]
    assert sum(map(sum, (main.loss_mask, fork.loss_mask))) == 2 * len(episode().steps)


def test_branches_that_are_right_are_found_right() -> None:
    assert episode_rules.steps(episode()) is None
    assert episode_rules.tool_results(episode()) is None
    assert sequence_rules.of_steps(episode()) is None


def test_branches_that_are_wrong_are_found() -> None:
    later = episode()
    later.steps[1].parent_step = 3
    assert episode_rules.steps(later) == "step 1: its parent_step is 3, which is no step before it"
    skipped = episode()
    skipped.steps[1].branch = 2
    assert episode_rules.steps(skipped) == "step 1: its branch is 2, and the next to begin is 1"
    jumped = episode()
    jumped.steps[3].parent_step = 1
    complaint = episode_rules.steps(jumped)
    assert complaint == "step 3: its parent_step is 1, not the one before in its branch"
    unheard = episode()
    unheard.steps[0].observations = []
    complaint = episode_rules.steps(unheard)
    assert complaint == "step 0: its observations are not what step 2 saw after it"


def test_a_step_is_held_to_what_its_agent_asked_for(tmp_path: Path) -> None:
    made = episode(sampling=SamplingSettings(max_tokens=100).model_dump_json())
    cut = made.steps[0]
    cut.finish_reason = "length"
    config = RunConfig.model_validate({"environment": {"id": "shell"}, "policy": {"kind": "vllm"}})
    run = RunContext(tmp_path, config, cast(Any, None), None)
    said = episode_rules.finish(run, made, cut, {99})
    assert said == "it was cut off, and its episode's is_truncated is false"
    made.is_truncated = True
    assert episode_rules.finish(run, made, cut, {99}) == "its finish reason is 'length' after 2 of 100 tokens"
    cut.asked = '{"max_tokens": 2, "stop": "END", "response_format": {"type": "json_object"}}'
    assert episode_rules.finish(run, made, cut, {99}) is None
    cut.finish_reason = "stop"
    assert episode_rules.finish(run, made, cut, {99}) is None  # by a string
    assert run.extra_body(made, cut) == {"response_format": {"type": "json_object"}}
    cut.asked = '{"max_tokens": 1}'
    assert episode_rules.finish(run, made, cut, {99}) == "2 tokens were sampled, and 1 are allowed"
