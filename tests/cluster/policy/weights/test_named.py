"""Adapters of other agents in a deployment's folder: names of their own, which no version has."""

from pathlib import Path

import pytest

from cluster.errors import UpdateRefused
from cluster.policy.weights.named import NamedAdapters, base_of, parse_named
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.versions import VersionFolder
from tests.helpers.weight_files import write_adapter, write_model
from workers.policy.versions import parse_version


@pytest.fixture
def versions(tmp_path: Path) -> VersionFolder:
    return VersionFolder(tmp_path / "versions", write_model(tmp_path / "model"), max_rank=8)


def add(versions: VersionFolder, name: str, adapter: Path) -> str:
    served = ServedModel.of_folder(versions.model)
    return NamedAdapters(versions).add(name, adapter, str(adapter), served)


def test_a_name_tells_the_content_and_the_base_and_is_no_versions(versions: VersionFolder, tmp_path: Path):
    adapter = write_adapter(tmp_path / "red")
    named = add(versions, "v3", adapter)
    assert named == add(versions, "v3", adapter), "the same again is there already"
    assert named != add(versions, "v3", write_adapter(tmp_path / "other", rank=4))
    assert (base_of(named), base_of("v3"), base_of("../v3")) == (0, None, None)
    assert parse_named(f"m:{named}", "m") == named
    assert (parse_named(f"other:{named}", "m"), parse_named("m:v3", "m"), parse_named("m", "m")) == (
        None,
    ) * 3
    assert parse_version(f"m:{named}", "m") is None
    found = NamedAdapters(versions).find(named)
    assert found is not None and (found / "adapter_model.safetensors").is_file()
    assert NamedAdapters(versions).find("v3") is None
    NamedAdapters(versions).drop(named)
    assert NamedAdapters(versions).find(named) is None


def test_a_new_version_leaves_named_adapters_where_they_are(versions: VersionFolder, tmp_path: Path):
    named = add(versions, "red", write_adapter(tmp_path / "red"))
    kind = versions.add_version(write_adapter(tmp_path / "one", rank=4), 1)
    versions.use_version(1, kind)
    assert NamedAdapters(versions).find(named) is not None
    assert versions.version == 1
    versions.fixed_by = "policies.red is an adapter of the full weights that it would replace"
    with pytest.raises(UpdateRefused, match=r"the checkpoint .*: policies\.red is an adapter of the full"):
        versions.add_version(write_model(tmp_path / "checkpoint"), 2)


def test_what_is_no_adapter_for_this_model_is_refused_and_leaves_nothing(
    versions: VersionFolder, tmp_path: Path
):
    with pytest.raises(UpdateRefused, match="there is no such folder; give the folder of a LoRA adapter"):
        add(versions, "red", tmp_path / "none")
    with pytest.raises(UpdateRefused, match=r"there is no adapter_config\.json in it"):
        add(versions, "red", tmp_path)
    with pytest.raises(UpdateRefused, match="for another base model"):
        add(versions, "red", write_adapter(tmp_path / "wide", inputs=5))
    assert not list(versions.path.glob("named/*"))
