"""A kept deployment is used again exactly where it serves the same: its name changes with what is served."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import VllmPolicy
from cluster.policy.models.models import Model
from cluster.policy.vllm import application, identity
from tests.helpers.weight_files import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "model")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text('{"a": 1}')
    return folder


def name(model: Path, **settings: Any) -> str:
    config = VllmPolicy.model_validate({"kind": "vllm", "model": str(model), **settings})
    served = Model("m", str(model), local=True)
    return application.application_name(config, served, application.serving_args(config, served, "cpu"))


def write_in_place(file: Path) -> None:
    """Changes one byte, and neither the size nor the time of the last change."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ],
)
def test_what_changes_in_place_is_another_deployment(file: str, model: Path):
    before = name(model)
    assert name(model) == before
    write_in_place(model / file)
    assert name(model) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "added_tokens.json").write_text("{}"),
        lambda model: (model / "tokenizer.json").unlink(),
        lambda model: (model / "model.safetensors").rename(model / "other.safetensors"),
    ],
)
def test_what_comes_or_goes_is_another_deployment(change: Callable[[Path], object], model: Path):
    before = name(model)
    change(model)
    assert name(model) != before


def test_what_is_not_served_is_no_part_of_it(model: Path):
    before = name(model)
    (model / "README.md").write_text("new")
    os.utime(model / "model.safetensors")
    assert name(model) == before


def test_large_weights_count_by_size_time_and_samples(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "_WHOLE_FILE_BYTES", 1)
    before = name(model)
    assert name(model) == before
    write_in_place(model / "model.safetensors")
    assert name(model) != before, "a sample shows it"
    before = name(model)
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert name(model) != before, "and in doubt it is another one"


def test_where_its_versions_are_is_part_of_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert name(model, versions_folder=str(tmp_path / "a")) != name(
        model, versions_folder=str(tmp_path / "b")
    )
    assert name(model, versions_folder=str(tmp_path / "a")) == name(
        model, versions_folder=str(tmp_path / "a")
    )
    before = name(model)
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "another"))
    assert name(model) != before, "by default they are in the cache folder"


def test_files_that_vllms_settings_name_count_by_what_they_hold(model: Path, tmp_path: Path):
    generation = tmp_path / "generation"
    generation.mkdir()
    (generation / "generation_config.json").write_text('{"top_k": 20}')
    before = name(model, engine={"generation_config": str(generation)})
    (generation / "generation_config.json").write_text('{"top_k": 50}')
    assert name(model, engine={"generation_config": str(generation)}) != before


def test_weights_count_by_what_they_hold_wherever_they_are_and_only_where_all_are(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    assert identity.weights_digest(model) is None
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model-1.safetensors").write_bytes(b"1")
    assert identity.weights_digest(model) is None  # a download that has not come to its end
    (model / "model-2.safetensors").write_bytes(b"2" * (1 << 26))
    whole = identity.weights_digest(model)
    copy = Path(shutil.copytree(model, tmp_path / "copy", copy_function=shutil.copyfile))
    (copy / "config.json").write_text("{}")
    assert whole is not None and identity.weights_digest(copy) == whole
    with (copy / "model-2.safetensors").open("r+b") as file:
        file.write(b"3")
    assert identity.weights_digest(copy) != whole
