"""The versions of a policy's weights: what is taken, and what is refused before it can do harm."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.adapters import AdapterFolder
from cluster.policy.deployment import update
from tests.helpers.lora_files import write_adapter, write_base


@pytest.fixture
def versions(tmp_path: Path) -> AdapterFolder:
    return AdapterFolder(tmp_path / "versions", write_base(tmp_path / "base"), max_rank=8)


@pytest.fixture
def refusals() -> list[str]:
    return []


@pytest.fixture
def deployment(refusals: list[str]) -> Iterator[str]:
    """An ingress that answers what its replicas would."""

    class Ingress(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"refusals": refusals}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ingress)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_a_deployment_begins_at_version_0(versions: AdapterFolder):
    assert versions.version == 0


def test_a_new_version_is_the_present_one_once_replicas_have_it(
    versions: AdapterFolder, deployment: str, tmp_path: Path
):
    update(versions, deployment, write_adapter(tmp_path / "a"), 1)
    update(versions, deployment, write_adapter(tmp_path / "b"), 5)
    assert versions.version == 5
    assert sorted(path.name for path in versions.path.iterdir()) == ["current.json", "v1", "v5"]


def test_a_version_is_a_copy_that_the_trainer_may_overwrite(
    versions: AdapterFolder, deployment: str, tmp_path: Path
):
    adapter = write_adapter(tmp_path / "a")
    update(versions, deployment, adapter, 1)
    (adapter / "adapter_config.json").write_text("{")
    assert json.loads((versions.path / "v1" / "adapter_config.json").read_text())["r"] == 2


@pytest.mark.parametrize("version", [3, 2, 0, -1])
def test_a_version_that_goes_backwards_is_refused(
    versions: AdapterFolder, deployment: str, tmp_path: Path, version: int
):
    update(versions, deployment, write_adapter(tmp_path / "a"), 3)
    with pytest.raises(UpdateRefused, match=f"version {version} is not above the policy's present one, 3"):
        update(versions, deployment, tmp_path / "a", version)
    assert versions.version == 3


def break_missing(adapter: Path) -> None:
    for file in adapter.iterdir():
        file.unlink()


def break_without_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def break_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{]")


def break_truncated(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


def break_garbage(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"not weights at all, not even nearly")


def break_module(adapter: Path) -> None:
    write_adapter(adapter, module="model.layers.40.self_attn.q_proj")


def break_shape(adapter: Path) -> None:
    write_adapter(adapter, inputs=5)


def break_rank(adapter: Path) -> None:
    write_adapter(adapter, rank=64)


def break_kind(adapter: Path) -> None:
    break_missing(adapter)
    (adapter / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (break_missing, "is missing, or no adapter: there is no adapter_config.json"),
        (break_without_weights, "malformed: there is no adapter_model.safetensors"),
        (break_config, "malformed: JSONDecodeError"),
        (break_truncated, "bytes long, and should be"),
        (break_garbage, "is no safetensors file"),
        (break_module, "for another base model: this one has no module 'model.layers.40.self_attn.q_proj'"),
        (break_shape, r"for another base model: .* has shape \[6, 4\] here, and its A is \[2, 5\]"),
        (break_rank, r"has rank 64, and policy\.adapters\.max_rank is 8"),
        (break_kind, r"is a full checkpoint; .* a checkpoint as policy\.model"),
    ],
)
def test_an_adapter_that_is_none_or_another_models_is_refused(
    versions: AdapterFolder, deployment: str, tmp_path: Path, broken, said: str
):
    update(versions, deployment, write_adapter(tmp_path / "good"), 1)
    adapter = write_adapter(tmp_path / "bad")
    broken(adapter)
    with pytest.raises(UpdateRefused, match=said):
        update(versions, deployment, adapter, 2)
    assert versions.version == 1
    assert not (versions.path / "v2").exists()


def test_what_a_replica_refuses_is_not_in_use(
    versions: AdapterFolder, deployment: str, refusals: list[str], tmp_path: Path
):
    refusals.append("LoRA rank 64 is greater than max_lora_rank 16")
    with pytest.raises(UpdateRefused, match="vLLM does not load it: LoRA rank 64"):
        update(versions, deployment, write_adapter(tmp_path / "a"), 1)
    assert versions.version == 0
    assert not (versions.path / "v1").exists()


def test_a_deployment_that_does_not_answer_keeps_its_version(versions: AdapterFolder, tmp_path: Path):
    with pytest.raises(PolicyUnavailable, match="did not load version 1"):
        update(versions, "http://127.0.0.1:9/v1", write_adapter(tmp_path / "a"), 1)
    assert versions.version == 0
