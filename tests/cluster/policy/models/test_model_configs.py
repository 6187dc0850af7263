"""Configs of popular families: what a trainer saves is the same model, and real differences are told."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cluster.policy.models import model_configs
from cluster.policy.models.model_configs import config_difference, is_tied
from tests.helpers.family_configs import FAMILIES, hub_config

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers is imported once for all tests; but for one, which has its own process as a driver has."""
    from cluster.policy.models.load_configs import load_full_config

    if "driver" not in request.node.name:
        load = lambda configs: json.dumps([load_full_config(config) for config in json.loads(configs)])  # noqa: E731
        monkeypatch.setattr(model_configs, "_load_in_process", load)


@pytest.mark.slow
def test_a_driver_has_them_loaded_by_a_process_of_its_own():
    config = hub_config("Qwen2.5")
    saved = {**config, "sliding_window": None, "rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}
    del saved["rope_theta"]
    told = config_difference(saved, config)
    assert told == ("rope_parameters.rope_theta", 5.0, 1000000.0)


def save_again(config: dict[str, Any], folder: Path, **changes: Any) -> dict[str, Any]:
    """What transformers' `save_pretrained` makes of a `config.json`."""
    from transformers import AutoConfig

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    try:
        loaded: Any = AutoConfig.from_pretrained(folder)
    except ValueError:
        return config  # of a model that transformers does not know
    for key, value in changes.items():
        setattr(loaded.get_text_config(), key, value)
    loaded.save_pretrained(folder / "saved")
    return json.loads((folder / "saved" / "config.json").read_text())


def test_there_are_configs_of_more_than_twenty_families():
    assert len({hub_config(family)["model_type"] for family in FAMILIES}) > 20


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_of_a_hubs_config_is_the_same_model(family: str, tmp_path: Path):
    config = hub_config(family)
    saved = save_again(config, tmp_path / "model")
    assert config_difference(saved, config) is None
    assert config_difference(config, saved) is None
    trained = save_again(
        {**config, "dtype": "float32", "_name_or_path": "/scratch/7", "eos_token_id": 2, "use_cache": False},
        tmp_path / "trained",
    )
    assert config_difference(trained, config) is None


QWEN = hub_config("Qwen2.5")
REAL = {
    "hidden_size": (48, 32),
    "intermediate_size": (96, 64),
    "num_hidden_layers": (3, 2),
    "num_attention_heads": (8, 4),
    "num_key_value_heads": (1, 2),
    "vocab_size": (200, 300000),
    "rms_norm_eps": (1e-5, 1e-6),
    "hidden_act": ("gelu", "silu"),
    "tie_word_embeddings": (True, False),
}


@pytest.mark.parametrize("key", REAL)
def test_a_real_difference_is_told_by_key_with_what_was_given_and_what_would_be_right(key: str):
    given, right = REAL[key]
    assert config_difference({**QWEN, key: given}, QWEN) == (key, given, right)


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("Qwen2.5", {"rope_theta": 10000.0}, ("rope_parameters.rope_theta", 10000.0, 1000000.0)),
        (
            "Qwen2.5",
            {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0},
            ("sliding_window", 4096, None),
        ),
        ("Qwen2.5", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, None),
        ("Qwen3", {"head_dim": 32}, ("head_dim", 32, 16)),
        ("Mistral 7B v0.1", {"sliding_window": 2048}, ("sliding_window", 2048, 4096)),
        ("Mistral 7B v0.1", {"sliding_window": None}, ("sliding_window", None, 4096)),
        ("Llama 3.1", {"rope_scaling": None}, None),
        ("Llama 3.1", {"attention_bias": True}, ("attention_bias", True, False)),
        ("Llama 3.1", {"tie_word_embeddings": True}, ("tie_word_embeddings", True, False)),
        ("Llama 3.1", {"model_type": "mistral", "rope_scaling": None}, ("model_type", "mistral", "llama")),
        ("Gemma 2", {"final_logit_softcapping": None}, ("final_logit_softcapping", None, 30.0)),
        ("Qwen3-MoE", {"num_experts_per_tok": 1}, ("num_experts_per_tok", 1, 2)),
        ("Granite 3", {"logits_scaling": 8.0}, ("logits_scaling", 8.0, 16.0)),
        ("DeepSeek V3", {"scoring_func": "softmax"}, ("scoring_func", "softmax", "sigmoid")),
        ("a model of its own code", {"hidden_size": 48}, ("hidden_size", 48, 32)),
        ("a model of its own code", {"rope_theta": 5.0}, ("rope_parameters.rope_theta", 5.0, 10000.0)),
    ],
)
def test_a_difference_in_what_is_computed_is_told_of_every_family(
    family: str, changes: dict[str, Any], told: tuple[str, Any, Any] | None
):
    config = hub_config(family)
    found = config_difference({**config, **changes}, config)
    assert found is not None
    assert found == told or (told is None and found[0].startswith("rope_parameters"))


def test_a_difference_below_a_text_config_is_told_with_its_place():
    config = hub_config("Gemma 3")
    other = {**config, "text_config": {**config["text_config"], "sliding_window": 512}}
    assert config_difference(other, config) == ("text_config.sliding_window", 512, 1024)


def test_spellings_of_the_rope_are_one():
    old = hub_config("Llama 3.1")
    scaling = old["rope_scaling"]
    rest = {key: value for key, value in old.items() if key not in ("rope_scaling", "rope_theta")}
    assert config_difference({**rest, "rope_parameters": {**scaling, "rope_theta": 500000.0}}, old) is None
    older = {**old, "rope_scaling": {**scaling, "type": "llama3"}}
    assert config_difference(older, old) is None
    assert config_difference({**rest, "rope_parameters": {**scaling, "rope_theta": 1e4}}, old) is not None


def test_a_longer_context_counts_where_it_is_computed_with():
    plain, scaled = hub_config("Llama 2"), hub_config("Qwen2.5 of an older transformers")
    assert config_difference({**plain, "max_position_embeddings": 32768}, plain) is None
    assert config_difference({**scaled, "max_position_embeddings": 65536}, scaled) == (
        "max_position_embeddings",
        65536,
        32768,
    )


@pytest.mark.parametrize(
    ("family", "tied"),
    [("Qwen2.5", False), ("Llama 2", False), ("SmolLM2", True), ("Gemma 2", True), ("Gemma 3", True)],
)
def test_whether_embeddings_are_tied_is_what_transformers_takes_it_for(family: str, tied: bool):
    assert is_tied(hub_config(family)) is tied
