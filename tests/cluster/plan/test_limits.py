"""Which tasks a limit takes, what a resumption may change, and what a file of sequences is good for."""

from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.dataset.run_folder import Target
from cluster.dataset.sequences import Sequence, SequenceFileSummary
from cluster.errors import ConfigError
from cluster.plan.limits import describe_left_out, limit_order
from cluster.plan.resume import CHANGEABLE_KEYS, resumable_config


def row(number: int, suite: str | None, attack: str | None) -> dict[str, Any]:
    info = {"suite": suite, "user_task": f"user_task_{number}", "attack": attack}
    return {"prompt": [], "info": {**info, "injection_task": "injection_task_0" if attack else None}}


ROWS: Any = [
    *(row(n, "banking", None) for n in range(6)),
    *(row(n, "banking", "direct") for n in range(6)),
    *(row(n, "slack", "direct") for n in range(2)),
]


def test_a_limit_by_kind_takes_from_each_mode_and_suite_in_turn() -> None:
    order = list(range(len(ROWS)))
    assert limit_order(ROWS, order, 4, "order") == [0, 1, 2, 3]
    assert limit_order(ROWS, order, 4, "kind") == [0, 1, 6, 12]
    assert limit_order(ROWS, order, 10, "kind") == [0, 1, 2, 3, 6, 7, 8, 9, 12, 13]
    backwards = list(reversed(order))
    assert limit_order(ROWS, backwards, 3, "kind") == [13, 11, 5]
    assert limit_order([{}, {}, {}], [2, 0, 1], 2, "kind") == [2, 0]


def test_what_a_limit_leaves_out_is_said() -> None:
    said = describe_left_out(ROWS, [0, 1, 2, 3], 4)
    assert said is not None and said.startswith("limit 4 takes 4 of 14 tasks; it leaves out all of: ")
    assert "banking attack (6), slack attack (2)" in said and "`limit_by: kind`" in said
    assert describe_left_out(ROWS, [0, 6, 12], 3) == "limit 3 takes 3 of 14 tasks"
    assert describe_left_out(ROWS, list(range(14)), 20) is None
    assert describe_left_out(ROWS, [0], None) is None


def test_keys_that_may_change_are_in_the_docs_and_in_the_config() -> None:
    page = (Path(__file__).parents[3] / "docs" / "dataset.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- resume: keys -->")[2].partition("<!-- /resume: keys -->")[0]
    for key in CHANGEABLE_KEYS:
        assert f"`{key}`" in listed
        assert key.split(".")[0] in RunConfig.model_fields


def sequence(group: str, number: int, advantage: float, split: str | None = "train") -> Sequence:
    return Sequence(
        episode_id=f"{group}{number}",
        task_id=group,
        split=split,
        group_id=group,
        sample_index=number,
        sequence_index=0,
        first_step=0,
        last_step=0,
        input_ids=[1, 2, 3],
        loss_mask=[0, 1, 1],
        logprobs=[0.0, -1.0, -1.0],
        reward=1.0,
        advantage=advantage,
        advantage_kind="grpo",
        is_truncated=False,
    )


def written(*sequences: Sequence) -> SequenceFileSummary:
    found = SequenceFileSummary("grpo")
    for each in sequences:
        found.add(each)
    return found


def test_a_file_of_sequences_says_what_there_is_to_learn_from() -> None:
    good = written(
        sequence("a", 0, 1.0), sequence("a", 1, -1.0), sequence("b", 0, 0.0), sequence("b", 1, 0.0)
    )
    assert good.warnings() == []
    assert good.describe() == (
        "4 episodes of 2 groups, 4 sequences, 8 tokens to learn from; "
        "2 sequences have an advantage other than 0"
    )


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([], ["there is no sequence"]),
        ([sequence("a", 0, 0.0), sequence("a", 1, 0.0)], ["every advantage is 0"]),
        (
            [sequence("a", 0, 0.0), sequence("b", 0, 0.0)],
            ["set `samples` to 4 or more", "every advantage is 0"],
        ),
        ([sequence("a", 0, 1.0, "eval"), sequence("a", 1, -1.0, "eval")], ["the split `eval`"]),
    ],
)
def test_a_file_that_a_trainer_cannot_use_is_warned_of(sequences: list[Sequence], says: list[str]) -> None:
    warnings = written(*sequences).warnings()
    assert len(warnings) == len(says)
    assert all(text in warning for text, warning in zip(says, warnings, strict=True))


def test_a_resumption_that_is_refused_says_which_keys_may_change(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}}
    Target(tmp_path / "run", "run").make(RunConfig.model_validate(fields))
    (tmp_path / "run" / "manifest.json").write_text('{"run_id": "run"}')
    with pytest.raises(ConfigError) as refused:
        resumable_config(tmp_path / "run", RunConfig.model_validate({**fields, "samples": 3}))
    said = str(refused.value)
    assert "these keys may not change when a run is resumed:\n  samples: was 1, is 3" in said
    assert f"These keys may change: {', '.join(CHANGEABLE_KEYS)}." in said
