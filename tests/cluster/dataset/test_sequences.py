"""Sequences for training, derived from a run's dataset."""

from pathlib import Path

import pytest

from cluster.dataset.advantages import advantages
from cluster.dataset.manifest import ManifestError
from cluster.dataset.sequences import sequences, sequences_of, sequences_of_records, write_sequences
from cluster.errors import ConfigError
from tests.cluster.synthetic import failed_episode
from tests.helpers.token_runs import template_in, two_turns, write_run
from workers.agent_results import AgentResult, write_agents
from workers.policy.chat_template import ChatTemplate
from workers.records import EpisodeRecord


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return template_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.slow
def test_turns_that_go_on_exactly_are_one_sequence_masked_to_what_was_sampled(template: ChatTemplate):
    record = two_turns(template)
    (sequence,) = sequences_of(record, advantage=0.25)
    first, second = record.steps
    assert sequence.input_ids == [*second.prompt_token_ids, *second.completion_token_ids]
    masked = [i for i, mask in zip(sequence.input_ids, sequence.loss_mask, strict=True) if mask]
    assert masked == [*first.completion_token_ids, *second.completion_token_ids]
    assert {p for p, mask in zip(sequence.logprobs, sequence.loss_mask, strict=True) if mask} == {-0.5}
    assert {p for p, mask in zip(sequence.logprobs, sequence.loss_mask, strict=True) if not mask} == {0.0}
    assert (sequence.first_step, sequence.last_step, sequence.advantage) == (0, 1, 0.25)


def test_turns_that_do_not_are_a_sequence_each(template: ChatTemplate):
    record = two_turns(template, exact=False)
    made = sequences_of(record)
    assert [sequence.sequence_index for sequence in made] == [0, 1]
    assert [sequence.input_ids for sequence in made] == [
        [*step.prompt_token_ids, *step.completion_token_ids] for step in record.steps
    ]


def test_a_sequence_that_spans_versions_says_so(template: ChatTemplate):
    record = two_turns(template)
    record.steps[1].policy_version = 4
    (sequence,) = sequences_of(record)
    assert (sequence.policy_version, sequence.last_policy_version) == (3, 4)


def test_agents_are_compared_with_the_same_seat_in_their_group_and_fixed_ones_are_left_out(
    template: ChatTemplate,
):
    def of_two_seats(number: int, reward: float) -> EpisodeRecord:
        record = two_turns(template, number, exact=False)
        solver, judge = record.steps
        solver.agent, solver.branch = "solver", 0
        judge.agent, judge.branch, judge.trainable, judge.policy = "judge", 0, False, "other"
        judge.prompt_token_ids = judge.completion_token_ids = judge.completion_logprobs = None
        record.reward = 0.5
        record.agents = write_agents(
            [
                AgentResult(
                    agent=name,
                    policy=policy,
                    trainable=policy is None,
                    branches=[0],
                    reward=own,
                    metrics={},
                    stop_reason=None,
                )
                for name, policy, own in (("solver", None, reward), ("judge", "other", 9.0))
            ]
        )
        record.group_id = "g"
        return record

    episodes = [of_two_seats(1, 1.0), of_two_seats(2, 0.0)]
    made = list(sequences_of_records(lambda: episodes, "dr_grpo"))
    assert [(each.agent, each.branch, each.reward, each.advantage) for each in made] == [
        ("solver", 0, 1.0, 0.5),
        ("solver", 0, 0.0, -0.5),
    ]


def test_the_variants_of_group_advantages():
    rewards = [1.0, 0.0, 0.0, 1.0, 0.5]
    assert advantages(rewards, "dr_grpo") == [0.5, -0.5, -0.5, 0.5, 0.0]
    assert advantages(rewards, "rloo") == pytest.approx([0.625, -0.625, -0.625, 0.625, 0.0])
    assert advantages(rewards, "grpo") == pytest.approx([1.118, -1.118, -1.118, 1.118, 0.0], abs=1e-3)
    assert advantages(rewards, "none") == rewards
    assert advantages([0.3, 0.3], "grpo") == [0.0, 0.0]
    assert advantages([0.3], "rloo") == [0.0]


async def test_episodes_without_token_ids_are_no_empty_file(tmp_path: Path, template: ChatTemplate):
    def untold(number: int) -> EpisodeRecord:
        record = two_turns(template, number)
        for step in record.steps:
            step.prompt_token_ids = step.completion_token_ids = step.completion_logprobs = None
        return record

    run = await write_run(tmp_path / "without", [untold(1), untold(2), failed_episode(3)])
    says = r"of 2 finished episodes, none has token ids.*`policy\.token_ids: true`.*`policy\.tokens: exact`"
    with pytest.raises(ConfigError, match=says):
        write_sequences(run)
    assert not list((run / "sequences").iterdir())
    assert not list(sequences(await write_run(tmp_path / "failed", [failed_episode(1)])))
    some = await write_run(tmp_path / "some", [untold(1), two_turns(template, 2)])
    assert [sequence.task_id[-1] for sequence in sequences(some)] == ["2"]
    _, written = write_sequences(some)
    assert any("1 finished episodes have no sequence" in warning for warning in written.warnings())


async def test_groups_take_in_finished_episodes_only_and_load_without_our_code(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
):
    records = [
        two_turns(template, 1, group_id="a", reward=1.0),
        two_turns(template, 2, group_id="a", reward=0.0),
        failed_episode(3, group_id="a"),
        two_turns(template, 4, group_id="b", reward=1.0),
    ]
    run = await write_run(tmp_path / "run", records)
    by_episode = {sequence.task_id[-1]: sequence.advantage for sequence in sequences(run)}
    assert by_episode == pytest.approx({"1": 1.0, "2": -1.0, "4": 0.0}, abs=1e-4)
    path, written = write_sequences(run, "rloo")
    assert (path, written.sequences) == (run / "sequences" / "rloo.parquet", 3)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train")
    assert sorted(loaded["advantage"]) == [-1.0, 0.0, 1.0]
    assert loaded.features["input_ids"].feature.dtype == "int32"


def test_a_folder_that_holds_no_run_gets_none(tmp_path: Path):
    with pytest.raises(ManifestError, match="holds no run"):
        write_sequences(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
