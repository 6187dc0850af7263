"""An agent whose npm packages cannot be had: one error that names them, and nothing that stays."""

from pathlib import Path

import pytest

from sandbox_images.host import ImageBuildError
from sandbox_images.npm_packages import npm_packages


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def listing(folder: Path, text: str) -> Path:
    (folder / "agent-test").mkdir()
    path = folder / "agent-test" / "npm.txt"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_package_that_cannot_be_fetched_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    monkeypatch.setenv("NPM_CONFIG_FETCH_RETRIES", "0")
    named = listing(tmp_path, "# a comment\n\ntool some-tool-{arch}@1.2.3\n")
    with pytest.raises(ImageBuildError, match=r"npm package some-tool-x64@1\.2\.3"):
        npm_packages(named, "x86_64", lambda line: None)
    assert [path for path in cache.glob("npm/*") if path.name != "locks"] == []


def test_without_npm_it_is_said_what_to_install(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    named = listing(tmp_path, "tool some-tool@1.2.3\n")
    with pytest.raises(
        ImageBuildError, match=r"packages of image agent-test: npm is missing; install Node\.js"
    ):
        npm_packages(named, "x86_64", lambda line: None)


def test_a_line_without_a_package_is_shown(cache: Path, tmp_path: Path) -> None:
    named = listing(tmp_path, "tool\n")
    with pytest.raises(ImageBuildError, match=r"'tool' needs a folder's name and a package with its version"):
        npm_packages(named, "x86_64", lambda line: None)
