"""Adapters: what vLLM serves as PEFT means it is taken, and everything else is refused by name."""

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
from cluster.policy.weights.adapters import check_adapter
from cluster.policy.weights.versions import VersionFolder

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.peft_adapters import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    from tests.helpers.peft_adapters import write_peft_adapter

    return write_peft_adapter(base, base.parent / "plain")


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


def set_config(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def set_weights(adapter: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file({name: np.ascontiguousarray(weight) for name, weight in weights.items()}, file)


def check(adapter: Path, base: Path, max_rank: int = 16) -> None:
    check_adapter(adapter, "it", base, max_rank)


SERVED: dict[str, dict[str, Any]] = {
    "plain": {},
    "all linear": {"target_modules": "all-linear"},
    "rank-stabilised": {"use_rslora": True},
    "another alpha": {"lora_alpha": 5},
    "no alpha": {"lora_alpha": 0},
    "by expression": {"target_modules": r".*\.mlp\.(up|gate)_proj"},
    "by full name": {"target_modules": ["model.layers.1.mlp.up_proj"]},
    "some layers": {"layers_to_transform": [1]},
    "one layer": {"layers_to_transform": 0, "layers_pattern": "layers"},
    "all but some": {
        "target_modules": ["q_proj", "o_proj"],
        "exclude_modules": ["layers.0.self_attn.q_proj"],
    },
    "dropout": {"lora_dropout": 0.1},
    "begun otherwise": {"init_lora_weights": "gaussian"},
    "output weights": {"target_modules": ["q_proj", "lm_head"], "embeddings": False},
    "a pattern for what is not there": {"alpha_pattern": {"c_attn": 99}, "rank_pattern": {"c_attn": 4}},
    "a pattern that says the same": {"alpha_pattern": {"q_proj": 16}, "rank_pattern": {"q_proj": 8}},
    "ranks that scale alike": {"rank_pattern": {"v_proj": 4}, "alpha_pattern": {"v_proj": 8}},
}


@pytest.mark.parametrize("kind", SERVED)
def test_what_vllm_serves_as_peft_means_it_is_taken(kind: str, base: Path, tmp_path: Path):
    from tests.helpers.peft_adapters import write_peft_adapter

    check(write_peft_adapter(base, tmp_path / "adapter", **SERVED[kind]), base)


UNSERVED: dict[str, tuple[dict[str, Any], str]] = {
    "alpha_pattern": (
        {"alpha_pattern": {"v_proj": 64}},
        r"alpha_pattern, by which PEFT scales 'model.layers.0.self_attn.v_proj' by 8; .* by 2 as all",
    ),
    "rank_pattern": ({"rank_pattern": {"v_proj": 4}}, r"has rank_pattern, by which PEFT scales .* by 4"),
    "one pattern for all": ({"rank_pattern": {".*": 4}}, "has rank_pattern"),
    "DoRA": ({"use_dora": True}, "has use_dora True: DoRA"),
    "bias": ({"bias": "all"}, "has bias 'all', and vLLM serves no biases"),
    "bias of its own": ({"bias": "lora_only"}, "has bias 'lora_only'"),
    "bias of lora_B": ({"lora_bias": True}, "has lora_bias True"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, r"has modules_to_save \['lm_head'\]"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "has trainable_token_indices"),
    "embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "of linear modules alone"),
    "output weights with the base model's": (
        {"target_modules": ["q_proj", "lm_head"]},
        r"lm_head.base_layer.weight', .* save_embedding_layers=False",
    ),
    "PiSSA": (
        {"init_lora_weights": "pissa"},
        "has init_lora_weights 'pissa', by which PEFT changes the base",
    ),
    "OLoRA": ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    "repeated layers": ({"layer_replication": [[0, 2], [0, 2]]}, "has layer_replication"),
    "a higher rank": ({"r": 32}, r"has rank 32, and policy\.adapters\.max_rank is 16"),
    "a higher rank in places": (
        {"rank_pattern": {"v_proj": 32}, "alpha_pattern": {"v_proj": 64}},
        r"has rank 32 for .*v_proj' \(rank_pattern\)",
    ),
}


@pytest.mark.parametrize("kind", UNSERVED)
def test_what_peft_writes_and_vllm_serves_otherwise_is_refused_by_name(kind: str, base: Path, tmp_path: Path):
    from tests.helpers.peft_adapters import write_peft_adapter

    settings, said = UNSERVED[kind]
    with pytest.raises(UpdateRefused, match=said):
        check(write_peft_adapter(base, tmp_path / "adapter", **settings), base)


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config", "OFTConfig", "VeraConfig"])
def test_other_kinds_of_adapters_are_refused_by_name(kind: str, base: Path, tmp_path: Path):
    import peft
    from transformers import AutoModelForCausalLM

    config: Any = getattr(peft, kind)
    settings: dict[str, Any] = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    if kind == "IA3Config":
        settings["feedforward_modules"] = []
    if kind == "OFTConfig":
        settings |= {"oft_block_size": 4, "r": 0}
    model: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config(**settings))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        UpdateRefused, match=rf"has peft_type '{config().peft_type.value}', and vLLM serves LORA"
    ):
        check(tmp_path / "adapter", base)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "has rank r 0, and it must be at least 1"),
        ({"r": -4}, "has rank r -4"),
        ({"r": "8"}, "its r is '8', not a whole number"),
        ({"r": True}, "its r is True"),
        ({"r": None}, "its r is None"),
        ({"r": 4}, "q_proj' has rank 8, and its config says 4"),
        ({"lora_alpha": None}, "its lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "its lora_alpha is nan, not a finite number"),
        ({"alpha_pattern": ["q_proj"]}, "its alpha_pattern is .* not an object"),
        ({"alpha_pattern": {"(": 3}}, r"its alpha_pattern has '\('"),
        ({"rank_pattern": {"q_proj": 0}}, "its rank_pattern has 'q_proj': 0"),
        ({"target_modules": "(q_proj"}, "malformed: its target_modules"),
        ({"target_modules": ["q_proj"]}, r"v_proj', which its target_modules does not name"),
        (
            {"target_modules": ["q_proj", "v_proj", "o_proj"], "init_lora_weights": False},
            r"names 'model.layers.0.self_attn.o_proj', and there are no weights for it \(2 such modules\)",
        ),
        ({"layers_to_transform": [0]}, r"layers.1.self_attn.q_proj', which its target_modules does not name"),
        ({"exclude_modules": ["v_proj"]}, "v_proj', which its target_modules does not name"),
        ({"use_rslora": "yes"}, "its use_rslora is 'yes'"),
        ({"fan_in_fan_out": True}, "has fan_in_fan_out True"),
        ({"megatron_config": {"a": 1}}, "has megatron_config"),
        ({"use_qalora": True}, "has use_qalora True: vLLM does not read that"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "has target_parameters"),
        ({"alora_invocation_tokens": [1]}, "has alora_invocation_tokens"),
        ({"something_of_next_year": 3}, "has something_of_next_year 3: vLLM does not read that"),
        ({"init_lora_weights": "loftq"}, "has init_lora_weights 'loftq'"),
        ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights 'pissa_niter_4'"),
        ({"peft_type": "XLORA"}, "has peft_type 'XLORA'"),
        ({"base_model_name_or_path": 3}, "its base_model_name_or_path is 3"),
        (
            {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"},
            "its base_model_name_or_path is 'meta-llama/L",
        ),
    ],
)
def test_a_config_that_says_something_else_is_refused_by_name(
    settings: dict[str, Any], said: str, adapter: Path, base: Path
):
    set_config(adapter, **settings)
    with pytest.raises(UpdateRefused, match=said):
        check(adapter, base)


def halve_b(weights: dict[str, Any]) -> None:
    weights[f"{MODULE}.lora_B.weight"] = weights[f"{MODULE}.lora_B.weight"][:, :4]


def halve_both(weights: dict[str, Any]) -> None:
    halve_b(weights)
    weights[f"{MODULE}.lora_A.weight"] = weights[f"{MODULE}.lora_A.weight"][:4]


def set_number(number: float, side: str) -> Callable[[dict[str, Any]], None]:
    def change(weights: dict[str, Any]) -> None:
        weights[f"{MODULE}.lora_{side}.weight"][1, 2] = number

    return change


def rename(end: str, to: str) -> Callable[[dict[str, Any]], None]:
    def change(weights: dict[str, Any]) -> None:
        weights[to] = weights.pop(f"{MODULE}.{end}")

    return change


def replace(shape: tuple[int, ...], kind: type = np.float32) -> Callable[[dict[str, Any]], None]:
    def change(weights: dict[str, Any]) -> None:
        weights[f"{MODULE}.lora_A.weight"] = np.zeros(shape, kind)

    return change


WEIGHTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no lora_B": (lambda w: w.pop(f"{MODULE}.lora_B.weight"), r"q_proj' has no lora_B"),
    "no lora_A": (lambda w: w.pop(f"{MODULE}.lora_A.weight"), r"q_proj' has no lora_A"),
    "ranks that differ": (halve_b, "q_proj' has a lora_A of rank 8 and a lora_B of rank 4"),
    "another rank": (halve_both, "q_proj' has rank 4, and its config says 8"),
    "NaN": (set_number(np.nan, "B"), "holds NaN in 'base_model.*q_proj.lora_B.weight'"),
    "infinity": (set_number(-np.inf, "A"), "holds infinity in 'base_model.*q_proj.lora_A.weight'"),
    "one dimension": (replace((256,)), r"q_proj.lora_A.weight' has shape \[256\], and should have two"),
    "three dimensions": (replace((8, 32, 1)), r"has shape \[8, 32, 1\]"),
    "nothing": (replace((0,)), r"has shape \[0\]"),
    "no rank": (replace((0, 32)), r"has shape \[0, 32\]"),
    "whole numbers": (replace((8, 32), np.int8), "lora_A.weight' is of I8; vLLM takes"),
    "another input": (replace((8, 31)), r"has shape \[32, 32\] here, and its A is \[8, 31\]"),
    "a magnitude": (
        rename("lora_A.weight", f"{MODULE}.lora_magnitude_vector"),
        "lora_magnitude_vector' is no LoRA weight",
    ),
    "a bias": (rename("lora_A.weight", f"{MODULE}.lora_B.bias"), "lora_B.bias' is no LoRA weight"),
    "an adapter's name": (rename("lora_A.weight", f"{MODULE}.lora_A.default.weight"), "is no LoRA weight"),
    "no prefix": (
        rename("lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.weight"),
        "'model.layers.0.self_attn.q_proj.lora_A.weight' is no LoRA weight",
    ),
    "a whole module": (rename("lora_A.weight", "base_model.model.lm_head.weight"), "is no LoRA weight"),
    "a tensor too many": (lambda w: w.update(extra=np.zeros(2, np.float32)), "'extra' is no LoRA weight"),
    "a layer too many": (
        lambda w: w.update({name.replace("layers.1.", "layers.2."): weight for name, weight in w.items()}),
        r"this one has no module 'model.layers.2.self_attn.q_proj'",
    ),
    "no weights": (lambda w: w.clear(), "malformed: it has no weights"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_not_whole_are_refused_by_name(kind: str, adapter: Path, base: Path):
    change, said = WEIGHTS[kind]
    set_weights(adapter, change)
    with pytest.raises(UpdateRefused, match=said):
        check(adapter, base)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_of_each_kind_are_seen_not_to_be_finite(number: float, adapter: Path, base: Path):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    file = adapter / "adapter_model.safetensors"
    for kind in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        weights = {name: weight.to(kind) for name, weight in load_torch(file).items()}
        save_torch(weights, file)
        check(adapter, base)
        weights[f"{MODULE}.lora_B.weight"][-1, -1] = number
        save_torch(weights, file)
        with pytest.raises(UpdateRefused, match="NaN" if number != number else "infinity"):
            check(adapter, base)
        weights[f"{MODULE}.lora_B.weight"][-1, -1] = 0.0
        save_torch(weights, file)


def test_a_number_that_no_served_kind_can_hold_is_refused(adapter: Path, base: Path):
    set_weights(adapter, lambda w: w.update({f"{MODULE}.lora_B.weight": np.full((32, 8), 1e300, np.float64)}))
    with pytest.raises(UpdateRefused, match=r"a number beyond .*, which is infinity as it is served"):
        check(adapter, base)


@pytest.mark.parametrize("prefix", ["", "model.model.", "language_model.model.", "model.language_model."])
def test_a_module_that_is_named_as_in_another_class_is_refused(prefix: str, adapter: Path, base: Path):
    """vLLM finds no such module, and leaves it out without a word; so does PEFT, so that no probe sees it."""

    def rename(weights: dict[str, Any]) -> None:
        for name in list(weights):
            weights[name.replace("base_model.model.model.", f"base_model.model.{prefix}")] = weights.pop(name)

    set_weights(adapter, rename)
    with pytest.raises(UpdateRefused, match=r"which the served model has as 'model\.layers"):
        check(adapter, base)


def test_output_weights_are_named_as_vllm_has_them(base: Path, tmp_path: Path):
    from tests.helpers.peft_adapters import write_peft_adapter

    adapter = write_peft_adapter(base, tmp_path / "it", **SERVED["output weights"])
    set_weights(
        adapter,
        lambda w: w.update(
            {n.replace(".lm_head", ".model.lm_head"): w.pop(n) for n in [*w] if "lm_head" in n}
        ),
    )
    with pytest.raises(UpdateRefused, match="which the served model has as 'lm_head'"):
        check(adapter, base)


@pytest.mark.parametrize(
    ("here", "given", "is_right"),
    [
        ("language_model.model.layers", "language_model.model.layers", True),
        ("language_model.model.layers", "model.language_model.layers", True),
        ("model.language_model.layers", "language_model.model.layers", True),
        ("model.layers", "model.layers", True),  # of Qwen2.5-VL on the hub
        ("model.layers", "model.language_model.layers", True),
        ("language_model.model.layers", "model.layers", False),  # of Gemma3ForCausalLM
        ("model.language_model.layers", "layers", False),
    ],
)
def test_layers_of_a_model_of_several_parts_have_the_names_that_vllm_knows(
    here: str, given: str, is_right: bool, adapter: Path
):
    from cluster.policy.weights.served_model import ServedModel, TensorKind

    projection = "0.self_attn.q_proj"
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {
            f"base_model.model.{given}.{projection}.lora_{side}.weight": weights[
                f"{MODULE}.lora_{side}.weight"
            ]
            for side in "AB"
        },
        adapter / "adapter_model.safetensors",
    )
    served = ServedModel(
        config={"text_config": {"num_hidden_layers": 2}},
        tensors={f"{here}.{projection}.weight": TensorKind(shape=[32, 32], dtype="F32")},
    )
    if is_right:
        check_adapter(adapter, "it", served, 16)
    else:
        with pytest.raises(UpdateRefused, match="serve the base model alone"):
            check_adapter(adapter, "it", served, 16)


@pytest.mark.parametrize("targets", ["all-linear", "All-Linear", None])
def test_what_a_config_leaves_out_is_refused_whatever_its_targets_are(
    targets: str | None, adapter: Path, base: Path
):
    set_config(adapter, target_modules=targets)
    check(adapter, base)
    set_config(adapter, exclude_modules=["layers.0.self_attn.q_proj"])
    with pytest.raises(UpdateRefused, match="PEFT would leave them out, and vLLM would not"):
        check(adapter, base)


def test_all_linear_modules_are_all_but_the_output_weights(base: Path, tmp_path: Path):
    from tests.helpers.peft_adapters import write_peft_adapter

    adapter = write_peft_adapter(base, tmp_path / "it", **SERVED["output weights"])
    set_config(adapter, target_modules="all-linear")
    with pytest.raises(UpdateRefused, match="weights for 'lm_head'"):
        check(adapter, base)


def test_a_module_by_its_full_name_is_adapted_in_whatever_layers(adapter: Path, base: Path):
    set_config(
        adapter,
        target_modules=[
            f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
        ],
        layers_to_transform=[1],
    )
    check(adapter, base)


def test_a_module_without_weights_is_said_and_taken_where_peft_takes_it_for_one_without_an_effect(
    adapter: Path, base: Path, caplog: pytest.LogCaptureFixture
):
    set_weights(adapter, lambda w: [w.pop(name) for name in list(w) if "layers.1." in name])
    check(adapter, base)
    assert "names 'model.layers.1.self_attn.q_proj', and there are no weights for it (2 such" in caplog.text
    set_config(adapter, init_lora_weights=False)
    with pytest.raises(UpdateRefused, match="PEFT would fill in random numbers, and vLLM nothing"):
        check(adapter, base)


def test_a_pickle_is_refused_and_never_read(adapter: Path, base: Path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UpdateRefused, match=r"adapter_model\.bin is a pickle, which is not read"):
        check(adapter, base)


def test_where_the_base_model_is_not_here_the_rest_is_still_checked(adapter: Path):
    check_adapter(adapter, "it", None, 16)
    set_weights(adapter, halve_b)
    with pytest.raises(UpdateRefused, match="a lora_A of rank 8 and a lora_B of rank 4"):
        check_adapter(adapter, "it", None, 16)


def test_a_base_model_is_known_by_its_name_its_place_or_its_weights(
    base: Path, adapter: Path, tmp_path: Path
):
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    from tests.helpers.peft_adapters import write_tiny_llama

    same = shutil.copytree(base, tmp_path / "renamed")
    narrow = shutil.copytree(base, tmp_path / "narrow")
    weights = load_torch(narrow / "model.safetensors")
    save_torch({name: weight.bfloat16() for name, weight in weights.items()}, narrow / "model.safetensors")
    other = write_tiny_llama(tmp_path / "other", intermediate_size=48)
    noisy = shutil.copytree(base, tmp_path / "tiny")
    save_torch({name: weight * 1.5 for name, weight in weights.items()}, noisy / "model.safetensors")
    for named in (
        None,
        str(base),
        str(same),
        str(narrow),
        "someone/tiny",
        "someone/Tiny-bnb-4bit",
        "/not/here",
    ):
        set_config(adapter, base_model_name_or_path=named)
        check(adapter, base)
    for named in (str(other), str(noisy), "someone/else", "gpt2"):
        set_config(adapter, base_model_name_or_path=named)
        with pytest.raises(UpdateRefused, match=rf"is for another base model: .* is '{named}'"):
            check(adapter, base)


def test_an_adapter_may_name_the_checkpoint_in_use_or_what_the_deployment_calls_its_model(
    base: Path, adapter: Path, tmp_path: Path
):
    versions = VersionFolder(tmp_path / "versions", base, 16, names=["my-policy"])
    for version, named in enumerate(("my-policy", "someone/my-policy", str(base)), 1):
        set_config(adapter, base_model_name_or_path=named)
        assert versions.add_version(adapter, version) == "adapter"
        versions.use_version(version, "adapter")
    checkpoint = shutil.copytree(base, tmp_path / "step-100")
    assert versions.add_version(checkpoint, 10) == "checkpoint"
    versions.use_version(10, "checkpoint")
    set_config(adapter, base_model_name_or_path=str(checkpoint))
    assert versions.add_version(adapter, 11) == "adapter"


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "model.visual.merger.mlp.0",
        "model.multi_modal_projector.linear_1",
        "model.connector.modality_projection.proj",
        "model.embed_vision.embedding_projection",
    ],
)
def test_an_adapter_of_an_image_models_tower_is_refused_since_vllm_adapts_the_language_model(
    name: str, adapter: Path
):
    from cluster.policy.weights.served_model import ServedModel, TensorKind

    served = ServedModel(
        config={"text_config": {"num_hidden_layers": 2}},
        tensors={f"{name}.weight": TensorKind(shape=[32, 32], dtype="F32")},
    )
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {
        f"base_model.model.{name}.lora_{side}.weight": weights[f"{MODULE}.lora_{side}.weight"]
        for side in "AB"
    }
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(UpdateRefused, match="and vLLM adapts the language model alone"):
        check_adapter(adapter, "it", served, 16)
