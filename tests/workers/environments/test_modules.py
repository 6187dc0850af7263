"""What is imported ahead of an environment is what it needs, and runs none of its code."""

import importlib.util
from pathlib import Path

import pytest

from workers.environments.modules import library_modules
from workers.settings import EnvironmentSettings

OPENING, CLASSIC = "workers.environments.opening", "workers.environments.classic.environment"
V1 = ["workers.environments.v1.environment", "verifiers.v1.tasksets"]
SOURCES = {
    "def load_environment(): ...": [OPENING, CLASSIC],
    "def load_environment(): return vf.StatefulToolEnv()": [
        OPENING,
        CLASSIC,
        "verifiers.legacy.envs.tool_env",
    ],
    "import verifiers.v1 as vf": [OPENING, *V1],
    "from verifiers import v1": [OPENING],
    "from .taskset import Mine": [OPENING],
}
NOWHERE = ["of.a.package", "not_there", "not_there.py", "a" * 300 + ".py", "nul\0.py", ""]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("place", ["of_mine.py", "of_mine/__init__.py"])
def test_the_api_shows_by_the_source(tmp_path: Path, source: str, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(f"raise SystemExit\n{source}")
    found = library_modules(EnvironmentSettings(id="of-mine", folder=tmp_path))
    assert found == SOURCES[source]
    if place.endswith("mine.py"):
        assert library_modules(EnvironmentSettings(id="of_mine.py"), tmp_path) == SOURCES[source]


def test_what_is_imported_ahead_is_there() -> None:
    for name in {name for modules in SOURCES.values() for name in modules}:
        assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", ["agentdojo", "shell"])
def test_a_bundled_one_is_itself_imported(name: str) -> None:
    assert library_modules(EnvironmentSettings(id=name)) == [
        OPENING,
        CLASSIC,
        f"workers.environments.{name}.environment",
    ]


@pytest.mark.parametrize("name", NOWHERE)
def test_where_no_source_is_found_nothing_of_an_api_is_imported(name: str) -> None:
    assert library_modules(EnvironmentSettings(id=name)) == [OPENING]
