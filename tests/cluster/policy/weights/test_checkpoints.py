"""Full checkpoints: each tensor is accounted for, and what is copied is what replicas read."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.errors import UpdateRefused
from cluster.policy.weights import checkpoints
from cluster.policy.weights.versions import VersionFolder

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.peft_adapters import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("models") / "untied")


@pytest.fixture(scope="module")
def tied(untied: Path) -> Path:
    from tests.helpers.peft_adapters import write_tiny_llama

    return write_tiny_llama(untied.parent / "tied", tie_word_embeddings=True)


@pytest.fixture
def versions(untied: Path, tmp_path: Path) -> VersionFolder:
    return VersionFolder(tmp_path / "versions", untied)


def changed(model: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no output weights": (
        lambda w: w.pop("lm_head.weight"),
        "not whole: it has no 'lm_head.weight', which the served model has; it may be left out only where",
    ),
    "no embeddings": (lambda w: w.pop("model.embed_tokens.weight"), "has no 'model.embed_tokens.weight'"),
    "no norm": (lambda w: w.pop("model.norm.weight"), "not whole: it has no 'model.norm.weight'"),
    "no layer": (
        lambda w: [w.pop(name) for name in list(w) if "layers.1." in name],
        r"not whole: it has no 'model.layers.1.input_layernorm.weight'.* \(9 of 21 tensors are missing\)",
    ),
    "a tensor too many": (
        lambda w: w.update({"model.extra.weight": np.zeros((2, 2), np.float32)}),
        "the served model has no 'model.extra.weight'",
    ),
    "another shape": (
        lambda w: w.update({"model.norm.weight": np.zeros(31, np.float32)}),
        r"'model.norm.weight' has shape \[31\], and the served model's \[32\]",
    ),
    "another kind": (
        lambda w: w.update({"model.norm.weight": np.zeros(32, np.int32)}),
        "'model.norm.weight' is of I32, and the served model's of F32; vLLM converts between",
    ),
    "NaN": (lambda w: w["model.norm.weight"].__setitem__(3, np.nan), "holds NaN in 'model.norm.weight'"),
    "infinity": (lambda w: w["lm_head.weight"].__setitem__((3, 1), np.inf), "holds infinity in 'lm_head"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_tensor_is_accounted_for(kind: str, versions: VersionFolder, untied: Path, tmp_path: Path):
    change, said = BROKEN[kind]
    with pytest.raises(UpdateRefused, match=said):
        versions.add_version(changed(untied, tmp_path / "new", change), 1)
    assert not versions.path.exists()


def test_a_checkpoint_of_another_precision_or_in_several_files_is_taken(
    versions: VersionFolder, untied: Path, tmp_path: Path
):
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(untied)
    model.bfloat16().save_pretrained(tmp_path / "new", max_shard_size="20KB")
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 1
    assert versions.add_version(tmp_path / "new", 1) == "checkpoint"
    (tmp_path / "new" / "old.safetensors").write_bytes(b"of an earlier save, and in no index")
    assert versions.add_version(tmp_path / "new", 1) == "checkpoint"
    assert not (versions.path / "v1" / "old.safetensors").exists(), "vLLM would not read it either"
    shard = sorted((tmp_path / "new").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UpdateRefused, match=rf"index\.json names {shard.name}, and there is no such file"):
        versions.add_version(tmp_path / "new", 2)


def test_output_weights_may_be_left_out_where_they_are_the_embeddings(tied: Path, tmp_path: Path):
    versions = VersionFolder(tmp_path / "versions", tied)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")

    def set_head(factor: float) -> Callable[[dict[str, Any]], None]:
        return lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] * np.float32(factor)})

    whole = changed(tied, tmp_path / "whole", set_head(1))
    assert versions.add_version(whole, 1) == "checkpoint"
    both = VersionFolder(tmp_path / "both", whole)
    assert both.add_version(tied, 1) == "checkpoint"
    with pytest.raises(UpdateRefused, match=r"'lm_head\.weight'"):
        versions.add_version(changed(tied, tmp_path / "own", set_head(2)), 2)
    with pytest.raises(
        UpdateRefused, match=r"output weights of its own: 'lm_head.weight' is not its embeddings"
    ):
        both.add_version(tmp_path / "own", 2)


@pytest.mark.slow
def test_whether_they_are_is_what_transformers_says_where_the_config_does_not(untied: Path, tmp_path: Path):
    silent = Path(shutil.copytree(untied, tmp_path / "silent"))
    config = json.loads((silent / "config.json").read_text())
    del config["tie_word_embeddings"]
    (silent / "config.json").write_text(json.dumps(config))
    bare = changed(silent, tmp_path / "bare", lambda w: w.pop("lm_head.weight"))
    with pytest.raises(UpdateRefused, match=r"it may be left out only where tie_word_embeddings is true"):
        VersionFolder(tmp_path / "versions", silent).add_version(bare, 1)


@pytest.mark.parametrize("known", ["config", "nothing"])
def test_where_the_served_models_weights_are_not_here_a_checkpoint_must_still_be_whole(
    known: str, untied: Path, tmp_path: Path
):
    here = tmp_path / "cache"
    here.mkdir()
    if known == "config":
        shutil.copyfile(untied / "config.json", here / "config.json")
    versions = VersionFolder(tmp_path / "versions", here)
    with pytest.raises(UpdateRefused, match=r"it has no 'lm_head.weight'"):
        versions.add_version(changed(untied, tmp_path / "bare", lambda w: w.pop("lm_head.weight")), 1)
    assert versions.add_version(untied, 1) == "checkpoint"


def test_what_a_version_holds_is_checked_again_where_it_is_read(
    versions: VersionFolder, untied: Path, tmp_path: Path
):
    versions.add_version(untied, 1)
    versions.check_copy(1)
    weights = versions.path / "v1" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"v1/model.safetensors is not the file that was put there"):
        versions.check_copy(1)
    weights.unlink()
    with pytest.raises(ValueError, match=r"v1/model.safetensors cannot be read"):
        versions.check_copy(1)


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrites the header of a checkpoint's file, and leaves its numbers as they are."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length])
    change(told)
    text = json.dumps(told).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["model.norm.weight"].update(shape=[16]), "'model.norm.weight' has 128 bytes, and shape"),
        (lambda h: h["model.norm.weight"].update(shape=[-32]), "is no safetensors file"),
        (
            lambda h: h["model.layers.0.input_layernorm.weight"].update(h["model.norm.weight"]),
            "begins at|bytes long",
        ),
        (lambda h: h["model.norm.weight"].pop("dtype"), "is no safetensors file"),
        (lambda h: h.update(more=3), "is no safetensors file"),
    ],
)
def test_a_file_whose_header_lies_is_refused(
    change: Callable[[dict[str, Any]], Any], said: str, versions: VersionFolder, untied: Path, tmp_path: Path
):
    folder = header(Path(shutil.copytree(untied, tmp_path / "new")), change)
    with pytest.raises(UpdateRefused, match=f"malformed: ValueError: .*{said}"):
        versions.add_version(folder, 1)


def test_two_sets_of_weights_in_one_folder_are_refused(versions: VersionFolder, untied: Path, tmp_path: Path):
    """transformers takes the single file, vLLM the index: a save in parts over one in a piece leaves both."""
    given = Path(shutil.copytree(untied, tmp_path / "given"))
    weights = load_file(given / "model.safetensors")
    save_file(weights, given / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UpdateRefused, match="two sets of weights"):
        versions.add_version(given, 1)
    (given / "model.safetensors").unlink()
    assert versions.add_version(given, 1) == "checkpoint"


def test_numbers_that_the_served_kind_cannot_hold_are_refused(untied: Path, tmp_path: Path):
    def as_half(weights: dict[str, Any]) -> None:
        weights.update({name: weight.astype(np.float16) for name, weight in weights.items()})

    versions = VersionFolder(tmp_path / "versions", changed(untied, tmp_path / "served", as_half))
    large = changed(untied, tmp_path / "large", lambda w: w["model.norm.weight"].__setitem__(0, 7e4))
    with pytest.raises(UpdateRefused, match=r"beyond 6\.55e\+04, which is infinity as it is served"):
        versions.add_version(large, 1)
    assert VersionFolder(tmp_path / "wider", untied).add_version(large, 1) == "checkpoint"


def test_what_changes_between_the_check_and_the_copy_is_refused(
    versions: VersionFolder, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A trainer that saves its next step into the folder that it has just given."""
    given = Path(shutil.copytree(untied, tmp_path / "given"))
    check = checkpoints.check_checkpoint

    def check_and_save(*arguments: Any) -> None:
        check(*arguments)
        weights = load_file(given / "model.safetensors")
        weights["model.norm.weight"][0] = np.nan
        save_file(weights, given / "model.safetensors")

    monkeypatch.setattr(checkpoints, "check_checkpoint", check_and_save)
    with pytest.raises(UpdateRefused, match="the folder was written to meanwhile"):
        versions.add_version(given, 1)
    assert versions.checkpoint(1) is None


def set_tokenizer(folder: Path, **vocabulary: int) -> None:
    added = [{"id": 7, "content": "<|end|>"}]
    told = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(told))


def test_weights_of_another_tokenizer_are_refused(untied: Path, tmp_path: Path):
    model = Path(shutil.copytree(untied, tmp_path / "model"))
    set_tokenizer(model, a=0, b=1)
    versions = VersionFolder(tmp_path / "versions", model)
    given = Path(shutil.copytree(model, tmp_path / "given"))
    assert versions.add_version(given, 1) == "checkpoint"
    set_tokenizer(given, b=0, a=1)
    with pytest.raises(UpdateRefused, match=r"token 0 of the tokenizer\.json beside it is 'b'"):
        versions.add_version(given, 2)


def test_what_a_deployment_keeps_beside_other_weights_is_said(
    untied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = Path(shutil.copytree(untied, tmp_path / "model"))
    set_tokenizer(model, a=0)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    versions = VersionFolder(tmp_path / "versions", model)
    given = Path(shutil.copytree(model, tmp_path / "given"))
    versions.add_version(given, 1)
    assert caplog.text == ""
    set_tokenizer(given, a=0, c=5)
    (given / "chat_template.jinja").write_text("{{ messages[0] }}")
    (given / "generation_config.json").write_text('{"eos_token_id": 9}')
    versions.add_version(given, 2)
    assert "has 1 tokens that the served model's lacks, such as 'c'" in caplog.text
    assert "the chat template beside it is not the served model's" in caplog.text
    assert "and the served model's [2, 7]; the deployment keeps its own" in caplog.text
