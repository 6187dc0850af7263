import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.check import CheckResult, check_requirements, render_checks
from cluster.cli.main import app
from cluster.config import RunConfig


def config(**changes: object) -> RunConfig:
    plain = {"environment": {"id": "agentdojo"}, "policy": {"kind": "oracle"}}
    return RunConfig.model_validate(plain | changes)


def by_name(found: list[CheckResult]) -> dict[str, CheckResult]:
    return {check.name: check for check in found}


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


def test_without_a_config_the_default_runs_parts_are_checked(no_engine: Path) -> None:
    assert list(by_name(check_requirements(None))) == [
        *("Python", "Docker engine", "sandbox image", "Ray", "vLLM", "model"),
        *("disk for runs", "disk for the cache", "memory"),
    ]


def test_what_is_advised_is_printed_with_its_brackets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [CheckResult("Ray", False, "no [/INST]", "pip install 'ray[serve]'")]
    monkeypatch.setattr("cluster.cli.check.check_requirements", lambda config: found)
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 1
    assert "FAIL  Ray  no [/INST]; to fix it: pip install 'ray[serve]'" in answer.output


def test_unreachable_engine_is_named_with_what_starts_one(no_engine: Path) -> None:
    found = by_name(check_requirements(None))
    engine, image = found["Docker engine"], found["sandbox image"]
    assert not engine.ok and str(no_engine) in engine.detail and engine.mend == "make engine"
    assert not image.ok and image.mend == "make engine"


@pytest.mark.slow
def test_engine_that_never_answers_is_given_up(no_engine: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(no_engine))
        silent.listen()
        found: list[CheckResult] = []
        thread = threading.Thread(target=lambda: found.extend(check_requirements(config())))
        thread.start()
        thread.join(timeout=90)
    assert not by_name(found)["Docker engine"].ok


@pytest.mark.slow
def test_process_backend_needs_no_engine(no_engine: Path) -> None:
    found = by_name(check_requirements(config(sandbox={"backend": "process"})))
    assert "Docker engine" not in found and "sandbox image" not in found


def test_environment_without_an_image_needs_none(no_engine: Path) -> None:
    assert "sandbox image" not in by_name(check_requirements(config(environment={"id": "my_environment"})))


def test_policy_that_is_not_vllm_needs_no_vllm(no_engine: Path) -> None:
    found = by_name(check_requirements(config()))
    assert "vLLM" not in found and "model" not in found


def test_packaged_model_is_looked_for_in_the_cache(
    no_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    model = by_name(check_requirements(None))["model"]
    assert not model.ok and str(tmp_path) in model.detail

    folder = tmp_path / "models" / "SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert by_name(check_requirements(None))["model"] == CheckResult("model", True, str(folder))


def test_model_folder_that_is_not_there_is_named(no_engine: Path) -> None:
    model = by_name(check_requirements(config(policy={"kind": "vllm", "model": "/no/such/model"})))["model"]
    assert not model.ok and "/no/such/model" in model.detail


def test_render_writes_one_line_per_part() -> None:
    found = [
        CheckResult("engine", True, "20.10"),
        CheckResult("sandbox image", False, "not there", "make image"),
    ]
    assert render_checks(found).splitlines() == [
        "ok    engine         20.10",
        "FAIL  sandbox image  not there; to fix it: make image",
    ]


@pytest.mark.docker
def test_unknown_runtime_is_named_beside_the_known_ones() -> None:
    engine = by_name(check_requirements(config(sandbox={"runtime": "nowhere"})))["Docker engine"]
    assert not engine.ok and "'nowhere'" in engine.detail and "runc" in engine.detail


@pytest.mark.docker
def test_engine_that_answers_is_ok_with_its_version() -> None:
    engine = by_name(check_requirements(config()))["Docker engine"]
    assert engine.ok and "runc" in engine.detail


@pytest.mark.docker
def test_image_that_is_not_there_is_named_with_what_gets_it() -> None:
    image = by_name(check_requirements(config(sandbox={"image": "nowhere/none:1"})))["sandbox image"]
    assert not image.ok and image.mend == "docker pull nowhere/none:1"
