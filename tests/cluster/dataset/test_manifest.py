import json
from pathlib import Path

import pytest

from cluster.dataset.durable import replacing, stray_files
from cluster.dataset.manifest import Manifest, ManifestError, Shard, load_manifest, write_manifest


def test_manifest_comes_back_as_it_was_written(tmp_path: Path):
    shard = Shard(segment="000001", episodes_file="episodes/a", steps_file="steps/a", episodes=2, steps=5)
    manifest = Manifest(run_id="r", planned=3, shards=[shard], states=["states/x.parquet"])
    write_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest


def test_other_format_version_is_named_before_anything_else(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 7, "chunks": []}))
    with pytest.raises(ManifestError, match=r"manifest\.json.*format is 7.*reads format 1"):
        load_manifest(tmp_path)


def test_folder_without_a_manifest_holds_no_run(tmp_path: Path):
    with pytest.raises(ManifestError, match="holds no run"):
        load_manifest(tmp_path)


def test_damaged_manifest_is_named(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "run_id"')
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        load_manifest(tmp_path)


def test_wrong_field_of_a_manifest_is_named(tmp_path: Path):
    text = '{"format": 1, "run_id": "r", "created": "2026-01-01T00:00:00Z", "planned": "many"}'
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="planned"):
        load_manifest(tmp_path)


def test_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "manifest.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_half_written_file_is_found_as_stray(tmp_path: Path):
    with replacing(tmp_path / "a.parquet") as temporary:
        temporary.write_text("x")
        assert stray_files(tmp_path) == [temporary]
        assert not list(tmp_path.glob("*.parquet"))
    assert stray_files(tmp_path) == []
