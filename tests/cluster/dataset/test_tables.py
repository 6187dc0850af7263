"""What a journal's segment becomes: tables of episodes and steps, which hold each record as it was."""

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cluster.dataset.arrow import pa
from cluster.dataset.schemas import EPISODES, STEPS, arrow_fields
from cluster.dataset.shards import CompactionError, compact
from tests.cluster.dataset.conftest import read_back
from tests.cluster.synthetic import (
    episode,
    episodes,
    failed_episode,
    write_segment,
)
from workers.records import EpisodeRecord, StepRecord


def compacted(run_dir: Path, records: list[EpisodeRecord], number: int = 1) -> Path:
    for table in ("episodes", "steps"):
        (run_dir / table).mkdir(exist_ok=True)
    compact(write_segment(run_dir / "journal" / f"{number:06d}.jsonl", records), run_dir)
    return run_dir


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(episodes, min_size=1, max_size=4, unique_by=lambda record: record.episode_id))
def test_any_record_comes_back_from_parquet_as_it_was(records: list[EpisodeRecord]):
    with tempfile.TemporaryDirectory() as folder:
        assert read_back(compacted(Path(folder), records)) == records


@pytest.mark.slow
def test_megabytes_in_one_record_come_back(tmp_path: Path):
    large = episode(1, tool_schemas="x" * 20_000_000, messages=[])
    records = [episode(0), large, failed_episode(2)]
    assert read_back(compacted(tmp_path, records)) == records


def test_tables_have_the_schemas_of_the_records_whatever_is_in_them(tmp_path: Path):
    compacted(tmp_path, [failed_episode(0)])
    assert pq.read_schema(tmp_path / "episodes/000001.parquet").equals(EPISODES)
    assert pq.read_schema(tmp_path / "steps/000001.parquet").equals(STEPS)


def test_schema_says_what_the_models_say():
    assert EPISODES.names == [name for name in EpisodeRecord.model_fields if name != "steps"]
    assert STEPS.names == ["episode_id", "task_id", "group_id", "sample_index", *StepRecord.model_fields]
    assert not EPISODES.field("task_id").nullable
    assert EPISODES.field("reward").type == pa.float64()
    assert EPISODES.field("reward").nullable
    assert EPISODES.field("sample_index").type == pa.int64()
    assert EPISODES.field("metrics").type == EPISODES.field("status").type == pa.string()
    assert STEPS.field("done").type == pa.bool_()
    assert STEPS.field("prompt_token_ids").type.value_type == pa.int32()
    assert STEPS.field("completion_logprobs").type.value_type == pa.float32()
    assert pa.types.is_struct(EPISODES.field("messages").type.value_type)


def test_field_that_arrow_cannot_hold_is_named():
    class Odd(BaseModel):
        table: dict[str, int]

    with pytest.raises(TypeError, match=r"Odd\.table"):
        arrow_fields(Odd)


def test_compacting_again_replaces_the_files(tmp_path: Path):
    compacted(tmp_path, [episode(0)])
    before = {file: file.read_bytes() for file in tmp_path.glob("*/*.parquet")}
    compacted(tmp_path, [episode(0)])
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*.parquet")} == before
    assert len(before) == 2


def test_record_that_does_not_fit_is_named_and_leaves_no_files(tmp_path: Path):
    odd = episode(1)
    odd.sample_index = 2**70
    with pytest.raises(CompactionError, match=r"000001\.jsonl: line 2 does not fit"):
        compacted(tmp_path, [episode(0), odd])
    assert list(tmp_path.glob("[es]*/*")) == list(tmp_path.glob("[es]*/.*")) == []
