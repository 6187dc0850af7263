"""The versions of a policy's weights: what is taken, and what is refused before it can do harm."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.vllm.deployment import update_deployment
from cluster.policy.weights.fetched import fetch_weights
from cluster.policy.weights.versions import VersionFolder
from tests.helpers.weight_files import write_adapter, write_model


@pytest.fixture
def versions(tmp_path: Path) -> VersionFolder:
    return VersionFolder(tmp_path / "versions", write_model(tmp_path / "model"), max_rank=8)


@pytest.fixture
def refusals() -> list[str]:
    return []


@pytest.fixture
def busy() -> list[int]:
    return []


@pytest.fixture
def deployment(refusals: list[str], busy: list[int]) -> Iterator[str]:
    """An ingress that answers what its replicas would."""

    class Ingress(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"refusals": refusals, "busy": busy}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ingress)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join(timeout=90)


def test_a_deployment_begins_at_version_0(versions: VersionFolder):
    assert versions.version == 0


def test_a_new_version_is_the_present_one_once_replicas_have_it(
    versions: VersionFolder, deployment: str, tmp_path: Path
):
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 1)
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "b")), 5)
    assert versions.version == 5
    assert sorted(path.name for path in versions.path.iterdir()) == ["current.json", "v1", "v5"]


def test_a_version_is_a_copy_that_the_trainer_may_overwrite(
    versions: VersionFolder, deployment: str, tmp_path: Path
):
    adapter = write_adapter(tmp_path / "a")
    update_deployment(versions, deployment, str(adapter), 1)
    (adapter / "adapter_config.json").write_text("{")
    assert json.loads((versions.path / "v1" / "adapter_config.json").read_text())["r"] == 2


@pytest.mark.parametrize("version", [3, 2, 0, -1])
def test_a_version_that_goes_backwards_is_refused(
    versions: VersionFolder, deployment: str, tmp_path: Path, version: int
):
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 3)
    with pytest.raises(UpdateRefused, match=f"version {version} is not above the policy's present one, 3"):
        update_deployment(versions, deployment, str(tmp_path / "a"), version)
    assert versions.version == 3


def test_adapters_that_have_been_superseded_often_go_unless_a_request_is_still_answered_by_them(
    deployment: str, busy: list[int], tmp_path: Path
):
    model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "a")
    versions = VersionFolder(tmp_path / "versions", model, max_rank=8, kept=2)

    def after(version: int) -> list[str]:
        update_deployment(versions, deployment, str(adapter), version)
        return sorted(path.name for path in versions.path.glob("v*"))

    assert (after(1), after(5)) == (["v1"], ["v1", "v5"])
    busy.append(1)
    assert (after(9), versions.current.oldest) == (["v1", "v5", "v9"], 5)
    busy.clear()
    assert (after(10), versions.current.oldest) == (["v10", "v9"], 9)
    update_deployment(versions, deployment, str(write_model(tmp_path / "b")), 11)
    assert after(12) == ["v11", "v12"], "the checkpoint that it is added to stays"
    assert after(13) == ["v11", "v12", "v13"]
    assert after(14) == ["v11", "v13", "v14"]


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


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (break_missing, "there is no adapter_config.json and no config.json in it; give a LoRA adapter's"),
        (break_without_weights, "malformed: there is no adapter_model.safetensors"),
        (break_config, "malformed: JSONDecodeError"),
        (break_truncated, "bytes long, and should be"),
        (break_garbage, "is no safetensors file"),
        (break_module, "for another base model: this one has no module 'model.layers.40.self_attn.q_proj'"),
        (break_shape, r"for another base model: .* has shape \[6, 4\] here, and its A is \[2, 5\]"),
        (break_rank, r"has rank 64, and policy\.adapters\.max_rank is 8"),
    ],
)
def test_an_adapter_that_is_none_or_another_models_is_refused(
    versions: VersionFolder, deployment: str, tmp_path: Path, broken, said: str
):
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "good")), 1)
    adapter = write_adapter(tmp_path / "bad")
    broken(adapter)
    with pytest.raises(UpdateRefused, match=said):
        update_deployment(versions, deployment, str(adapter), 2)
    assert versions.version == 1
    assert not (versions.path / "v2").exists()


def test_a_checkpoint_takes_the_place_of_all_that_was(
    versions: VersionFolder, deployment: str, tmp_path: Path
):
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 1)
    update_deployment(versions, deployment, str(write_model(tmp_path / "b", transformers_version="2")), 2)
    assert (versions.version, versions.current.base, versions.adapter(2)) == (2, 2, None)
    assert sorted(path.name for path in versions.path.iterdir()) == ["current.json", "v2"]
    update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 3)
    assert (versions.version, versions.current.base) == (3, 2)
    assert versions.adapter(3) == versions.path / "v3"
    assert versions.checkpoint(2) == versions.path / "v2"


def lack_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def cut_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


def lack_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()


def lack_folder(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lack_folder, "there is no such folder; give a LoRA adapter's folder or a full checkpoint's"),
        (lack_config, "there is no adapter_config.json and no config.json in it"),
        (lack_weights, r"malformed: there are no weights in it"),
        (cut_weights, "malformed: .*bytes long, and should be"),
        (lambda c: (c / "config.json").write_text("[]"), "malformed: .*holds no object"),
        (lambda c: (c / "model.safetensors").write_bytes(b"no weights"), "is no safetensors file"),
        (lambda c: write_model(c, vocabulary=10), "another architecture: its vocab_size is 10, and .* is 9"),
        (lambda c: write_model(c, (6, 5)), "another architecture: its hidden_size is 5, and .* is 4"),
        (lambda c: write_model(c, (7, 4)), r"'.*q_proj.weight' has shape \[7, 4\], and .* \[6, 4\]"),
        (lambda c: write_model(c, module="model.layers.1.mlp"), "not whole: it has no '.*q_proj.weight'"),
        (lambda c: write_model(c, architectures=["Other"]), r"its architectures is \['Other'\]"),
    ],
)
def test_a_checkpoint_that_is_none_or_of_another_architecture_is_refused(
    versions: VersionFolder, deployment: str, tmp_path: Path, broken, said: str
):
    checkpoint = write_model(tmp_path / "bad")
    broken(checkpoint)
    with pytest.raises(UpdateRefused, match=said):
        update_deployment(versions, deployment, str(checkpoint), 1)
    assert versions.version == 0
    assert not versions.path.exists()


def test_a_deployment_without_adapters_takes_checkpoints_alone(deployment: str, tmp_path: Path):
    versions = VersionFolder(tmp_path / "versions", write_model(tmp_path / "model"))
    with pytest.raises(UpdateRefused, match=r"policy\.adapters is not set .* full checkpoints only"):
        update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 1)
    update_deployment(versions, deployment, str(write_model(tmp_path / "b")), 1)
    assert versions.version == 1


def test_weights_may_come_from_a_bucket(
    versions: VersionFolder, deployment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    bucket = fsspec.filesystem("memory")
    for file in write_adapter(tmp_path / "a").iterdir():
        bucket.pipe_file(f"/bucket/adapter/{file.name}", file.read_bytes())
    update_deployment(versions, deployment, "memory://bucket/adapter", 1)
    assert versions.version == 1
    assert (versions.path / "v1" / "adapter_model.safetensors").is_file()
    bucket.pipe_file("/bucket/adapter/adapter_model.safetensors", b"no weights")
    with pytest.raises(UpdateRefused, match=r"the adapter memory://bucket/adapter is malformed"):
        update_deployment(versions, deployment, "memory://bucket/adapter", 2)
    with pytest.raises(UpdateRefused, match=r"memory://bucket/nothing cannot be read"):
        update_deployment(versions, deployment, "memory://bucket/nothing", 2)
    with pytest.raises(UpdateRefused, match=r"nonsense://a cannot be read: .*nonsense"):
        update_deployment(versions, deployment, "nonsense://a", 2)
    assert not list((tmp_path / "cache" / "policy").iterdir()), "nothing of it stays"


def test_what_a_replica_refuses_is_not_in_use(
    versions: VersionFolder, deployment: str, refusals: list[str], tmp_path: Path
):
    refusals.append("LoRA rank 64 is greater than max_lora_rank 16")
    with pytest.raises(UpdateRefused, match="vLLM does not load it: LoRA rank 64"):
        update_deployment(versions, deployment, str(write_adapter(tmp_path / "a")), 1)
    assert versions.version == 0
    assert not (versions.path / "v1").exists()


def test_a_deployment_that_does_not_answer_keeps_its_version(versions: VersionFolder, tmp_path: Path):
    with pytest.raises(PolicyUnavailable, match="did not load version 1"):
        update_deployment(versions, "http://127.0.0.1:9/v1", str(write_adapter(tmp_path / "a")), 1)
    assert versions.version == 0


def test_two_processes_do_not_give_weights_at_once(versions: VersionFolder, deployment: str, tmp_path: Path):
    adapter = write_adapter(tmp_path / "a")
    with (
        versions.being_updated(),
        pytest.raises(UpdateRefused, match="another process is giving new weights"),
    ):
        update_deployment(versions, deployment, str(adapter), 1)
    left = versions.path / ".v1-4711"  # of a process that was killed in the middle of copying
    left.mkdir(parents=True)
    update_deployment(versions, deployment, str(adapter), 1)
    assert versions.version == 1 and not left.exists()


class ListingBucket(MemoryFileSystem):
    """A bucket whose client remembers what a folder holds, as many do."""

    protocol = "listing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = path.removeprefix("listing://").strip("/")
        return f"/{path}" if path else ""

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=False)
        return list(self.dircache[path])

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_what_a_trainer_adds_to_one_place_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    fsspec.register_implementation("listing", ListingBucket, clobber=True)
    bucket = ListingBucket()
    bucket.pipe_file("/weights/config.json", b"{}")
    with fetch_weights("listing://weights") as folder:
        assert [path.name for path in folder.iterdir()] == ["config.json"]
    bucket.pipe_file("/weights/model-00002-of-00002.safetensors", b"")
    with fetch_weights("listing://weights") as folder:
        assert (folder / "model-00002-of-00002.safetensors").exists()
