"""A number is one set of weights, on every replica and for ever; and a deployment says which it has."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.vllm.deployment import check_same_versions, update_deployment
from cluster.policy.weights.full_weights import FullWeights
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.versions import VersionFolder
from tests.helpers.weight_files import MODULE, write_adapter, write_model


def write_other_adapter(folder: Path, number: float) -> Path:
    write_adapter(folder)
    name = f"base_model.model.{MODULE}"
    weights = {f"{name}.lora_A.weight": np.full((2, 4), number), f"{name}.lora_B.weight": np.ones((6, 2))}
    save_file(
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


class Deployment:
    """What an ingress was asked, and what it is to answer."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {}
        self.answer: Callable[[dict[str, Any]], Any] = lambda _: {"refusals": [], "busy": []}
        deployment = self

        class Ingress(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                deployment.asked.append(body)
                self._say(deployment.answer(body))

            def do_GET(self) -> None:
                self._say(deployment.told[self.path])

            def _say(self, answer: Any) -> None:
                self.send_response(200 if answer is not None else 500)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Ingress)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def has(self, versions: VersionFolder, *bases: int) -> None:
        current = versions.current.model_dump()
        self.told["/kumite/versions"] = {"folder": str(versions.path), "current": current, "bases": bases}


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    deployment = Deployment()
    thread = threading.Thread(target=deployment.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield deployment
    deployment.server.shutdown()
    deployment.server.server_close()
    thread.join(timeout=90)


@pytest.fixture
def versions(tmp_path: Path, deployment: Deployment) -> VersionFolder:
    versions = VersionFolder(tmp_path / "versions", write_model(tmp_path / "model"), max_rank=8)
    deployment.has(versions, 0)
    return versions


@pytest.mark.parametrize("how", ["refused", "timed out"])
def test_a_number_that_replicas_were_given_is_never_that_of_other_weights(
    how: str, versions: VersionFolder, deployment: Deployment, tmp_path: Path
):
    first, second = (write_other_adapter(tmp_path / str(number), number) for number in (1, 2))
    deployment.answer = lambda _: {"refusals": ["no room"], "busy": []} if how == "refused" else None
    with pytest.raises((UpdateRefused, PolicyUnavailable), match=r"no room|did not load version 1"):
        update_deployment(versions, deployment.url, str(first), 1)
    deployment.answer = lambda _: {"refusals": [], "busy": []}
    said = r"version 1 was given for other weights before, .* the next number is 2"
    with pytest.raises(UpdateRefused, match=said):
        update_deployment(versions, deployment.url, str(second), 1)
    assert (versions.version, versions.next_version) == (0, 2)
    again = VersionFolder(versions.path, versions.model, max_rank=8)
    with pytest.raises(UpdateRefused, match=said):
        update_deployment(again, deployment.url, str(write_model(tmp_path / "full")), 1)
    update_deployment(again, deployment.url, str(first), 1)
    assert again.version == 1, "for the same weights, it may be tried again"
    update_deployment(again, deployment.url, str(second), again.next_version)
    assert (again.version, again.current.given) == (2, {})


def test_what_is_refused_before_replicas_hear_of_it_uses_up_no_number(
    versions: VersionFolder, deployment: Deployment, tmp_path: Path
):
    with pytest.raises(UpdateRefused):
        update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "wide", inputs=5)), 1)
    assert (versions.next_version, deployment.asked) == (1, [])
    update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "good")), 1)


def test_replicas_that_were_left_at_weights_that_did_not_come_into_use_are_brought_back(
    versions: VersionFolder, deployment: Deployment, tmp_path: Path
):
    deployment.has(versions, 0, 3)
    update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "a")), 4)
    assert [(asked["kind"], asked["version"]) for asked in deployment.asked] == [
        ("checkpoint", 0),
        ("adapter", 4),
    ]
    deployment.has(versions, 3, 0)
    check_same_versions(versions, deployment.url)
    assert [(asked["kind"], asked["version"]) for asked in deployment.asked[2:]] == [("checkpoint", 0)]


def test_a_kept_deployment_at_another_version_than_the_run_takes_it_for_is_told(
    versions: VersionFolder, deployment: Deployment, tmp_path: Path
):
    elsewhere = VersionFolder(tmp_path / "elsewhere", versions.model, max_rank=8)
    elsewhere.add_version(write_adapter(tmp_path / "a"), 5)
    elsewhere.use_version(5, "adapter")
    deployment.has(elsewhere, 0)
    with pytest.raises(
        PolicyUnavailable,
        match=r"is at version 5, in .*elsewhere, and this run would take it to be at version 0, .* "
        r"set policy\.versions_folder",
    ):
        check_same_versions(versions, deployment.url)
    check_same_versions(elsewhere, deployment.url)


@pytest.mark.parametrize("cached", ["config.json alone", "nothing"])
def test_where_the_model_is_with_the_replicas_new_weights_are_compared_as_these_describe_it(
    cached: str, deployment: Deployment, tmp_path: Path
):
    model = write_model(tmp_path / "model")
    here = tmp_path / "cache"
    here.mkdir()
    if cached != "nothing":
        shutil.copyfile(model / "config.json", here / "config.json")
    versions = VersionFolder(tmp_path / "versions", here if cached != "nothing" else None, max_rank=8)
    deployment.has(versions, 0)
    deployment.told["/kumite/model"] = ServedModel.of_folder(model).model_dump()
    with pytest.raises(UpdateRefused, match=r"for another base model: .* and its A is"):
        update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "wide", inputs=5)), 1)
    with pytest.raises(UpdateRefused, match="its vocab_size is 10, and the served model's is 9"):
        update_deployment(versions, deployment.url, str(write_model(tmp_path / "other", vocabulary=10)), 1)
    with pytest.raises(UpdateRefused, match=r"q_proj.weight' has shape \[7, 4\], and .* \[6, 4\]"):
        update_deployment(versions, deployment.url, str(write_model(tmp_path / "tall", (7, 4))), 1)
    update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "good")), 1)
    update_deployment(versions, deployment.url, str(write_model(tmp_path / "full")), 2)
    assert versions.version == 2


def test_where_nobody_knows_the_model_what_is_not_compared_is_said(
    deployment: Deployment, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    versions = VersionFolder(tmp_path / "versions", None, max_rank=8)
    deployment.has(versions, 0)
    deployment.told["/kumite/model"] = None
    update_deployment(versions, deployment.url, str(write_adapter(tmp_path / "good")), 1)
    assert "not compared with the config and the tensors of the served model" in caplog.text


async def test_a_replica_refuses_a_checkpoint_that_is_not_what_was_put_there(
    versions: VersionFolder, tmp_path: Path
):
    loaded: list[int] = []

    async def reload(version: int) -> None:
        loaded.append(version)

    versions.add_version(write_model(tmp_path / "full"), 1)
    weights = FullWeights(versions, reload)
    with (versions.path / "v1" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert "is not the file that was put there: its checksum differs" in (await weights.load(1) or "")
    assert (loaded, weights.version) == ([], 0)
