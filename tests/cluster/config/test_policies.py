"""`policies`: an endpoint, an adapter of the run's own deployment, or one more deployment."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import AdapterPolicy, VllmPolicy
from cluster.config.file import load_config
from cluster.errors import ConfigError
from cluster.policy.named import check_named_policies

ADAPTER = {"kind": "adapter", "path": "lora"}


def write(folder: Path, policy: dict[str, Any], **policies: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"environment": {"id": "e"}, "policy": policy, "policies": policies}))
    return path


def vllm(**more: Any) -> dict[str, Any]:
    return {"kind": "vllm", **more}


def test_an_adapter_and_a_deployment_are_read_with_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = write(tmp_path, vllm(adapters={}), red=ADAPTER, judge=vllm(model="m", chat_template="t.jinja"))
    config = load_config(given)
    red, judge = config.policies["red"], config.policies["judge"]
    assert isinstance(red, AdapterPolicy) and red.path == str(tmp_path / "lora")
    assert isinstance(judge, VllmPolicy) and judge.chat_template == tmp_path / "t.jinja"
    given = write(tmp_path, vllm(adapters={}), red={**ADAPTER, "path": "s3://bucket/lora"})
    assert load_config(given).policies["red"].path == "s3://bucket/lora"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("policy", "policies", "says"),
    [
        (
            {"kind": "oracle"},
            {"red": ADAPTER},
            r"policies\.red\.kind: got `adapter`, .* whose kind is `oracle`; it must be `vllm`, with "
            r"`adapters: \{\}`",
        ),
        (
            vllm(),
            {"red": ADAPTER},
            r"policies\.red\.kind: got `adapter`, .*: set policy\.adapters, for example",
        ),
        (
            vllm(adapters={"live": 2}),
            {"red": ADAPTER, "blue": ADAPTER},
            r"which holds 2 at once \(policy\.adapters\.live\): set that to 3 or more, 2 for `policies` "
            r"\(blue, red\)",
        ),
        (
            vllm(adapters={}),
            {"judge": vllm(keep_alive=True)},
            r"policies\.judge\.keep_alive: got 'True'; only the deployment of `policy` can be kept\. Leave",
        ),
        (
            vllm(),
            {"judge": vllm(adapters={})},
            r"policies\.judge\.adapters: got .*; its weights are never updated; for one adapter, use kind",
        ),
        (
            vllm(),
            {"judge": {"kind": "oracle"}},
            r"policies\.judge\.kind: got 'oracle'; it must be endpoint, adapter or vllm",
        ),
        (vllm(adapters={}), {"red": {"kind": "adapter"}}, r"policies\.red\.path: is missing"),
    ],
)
def test_what_cannot_be_served_is_named_with_what_would_be_right(tmp_path, policy, policies, says):
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, policy, **policies))


def test_an_adapter_that_is_not_there_is_named_before_anything_is_started(tmp_path):
    config = load_config(write(tmp_path, vllm(adapters={}), red={**ADAPTER, "path": str(tmp_path / "no")}))
    with pytest.raises(ConfigError, match=r"policies\.red\.path: got '.*/no', a folder that does not exist"):
        check_named_policies(config.policies)
    config = load_config(write(tmp_path, vllm(adapters={}), red={**ADAPTER, "path": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"red\.path: .* a folder that has no adapter_config.json"):
        check_named_policies(config.policies)
