import re
import shutil
import threading
import tomllib
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

import cluster.cache
from sandbox_images import build, host, packages
from sandbox_images.build import ImageBuildError, build_image, image_exists, image_tag

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
TINY = f"tiny_{uuid.uuid4().hex[:8]}"
"""The image's name: the engine is shared with whatever else is tested on this machine."""
DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY sandbox_images /opt/kumite/sandbox_images
RUN python3 -c "import socket; assert [name for _, name in socket.if_nameindex()] == ['lo']"
USER 65534:65534
ENTRYPOINT ["python3", "-P", "-s", "-c"]
"""


def write_wheel(folder: Path) -> Path:
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `sandbox_images/` with one more image in it, `TINY`, and an empty cache."""
    root = tmp_path / "sandbox_images"
    shutil.copytree(PROJECT / "sandbox_images", root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / TINY).mkdir()
    (root / TINY / "Dockerfile").write_text(DOCKERFILE)
    (root / TINY / "requirements.txt").write_text(f"tiny @ {write_wheel(tmp_path).as_uri()}\n")
    (root / TINY / "toolset.py").write_text("WORD = 'one'\n")
    monkeypatch.setattr(build, "ROOT", root)
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    return root


@pytest.fixture
def engine(tree: Path) -> Iterator[docker.DockerClient]:
    """The engine; images of `TINY` are removed at the end."""
    client = docker.from_env(timeout=60)
    yield client
    for name in (f"kumite-{TINY}", f"kumite-{TINY}-site"):
        for image in client.images.list(name=name):
            for tag in image.tags:
                client.images.remove(tag, force=True)
    client.close()


def run(client: docker.DockerClient, tag: str, code: str) -> str:
    output = client.containers.run(tag, [code], network_mode="none", read_only=True, remove=True)
    return output.decode().strip()


@pytest.mark.parametrize(
    "path", ["__init__.py", "site.Dockerfile", "tool_host/wire.py", "{tiny}/requirements.txt"]
)
def test_tag_changes_with_every_file_of_the_image(tree: Path, path: str) -> None:
    before = image_tag(TINY)
    assert re.fullmatch(rf"kumite-{TINY}:[0-9.]+-[0-9a-f]{{12}}", before)
    changed = tree / path.format(tiny=TINY)
    changed.write_text(changed.read_text() + "\n")
    assert image_tag(TINY) != before


def test_lists_of_programs_are_part_of_the_tag_and_have_a_name_of_their_own(tree: Path) -> None:
    assert build.programs_digest(TINY) is None
    before = image_tag(TINY)
    (tree / TINY / "programs").mkdir()
    listing = tree / TINY / "programs" / "chat.txt"
    listing.write_text("# dependencies: tiny\n")
    digest = build.programs_digest(TINY)
    assert digest is not None
    assert image_tag(TINY) != before
    listing.write_text("# dependencies: tiny, other\n")
    assert build.programs_digest(TINY) != digest


def test_tag_changes_when_a_file_is_added_or_moved(tree: Path) -> None:
    tags = [image_tag(TINY)]
    (tree / TINY / "more.py").write_text("")
    tags.append(image_tag(TINY))
    (tree / TINY / "more.py").rename(tree / TINY / "other.py")
    tags.append(image_tag(TINY))
    assert len(set(tags)) == 3


def test_tag_ignores_byte_code_and_other_images(tree: Path) -> None:
    before = image_tag(TINY)
    (tree / "tool_host" / "__pycache__").mkdir()
    (tree / "tool_host" / "__pycache__" / "wire.cpython-311.pyc").write_bytes(b"x")
    (tree / "agentdojo" / "more.py").write_text("")
    assert image_tag(TINY) == before


def test_unknown_image_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ImageBuildError, match=r"'nowhere'.*agentdojo"):
        image_tag("nowhere")


def test_version_is_the_projects() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == build.VERSION


@pytest.mark.parametrize(
    "environment", [{"KUMITE_CACHE": "here"}, {"XDG_CACHE_HOME": "/x"}, {"HOME": "/home/someone"}]
)
def test_cache_is_the_cluster_sides(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUMITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert host.cache_dir() == cluster.cache.cache_dir()


def test_packages_are_installed_once_per_requirements(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tree / TINY / "requirements.txt"
    said: list[str] = []
    site = packages.install_site_packages(requirements, "x86_64", said.append)
    assert (site / "tiny.py").read_text() == "ANSWER = 42\n"
    assert len(said) == 1

    monkeypatch.setattr(packages, "run_command", lambda *_, **__: pytest.fail("installed again"))
    assert packages.install_site_packages(requirements, "x86_64", said.append) == site
    assert len(said) == 1


def test_failed_install_leaves_nothing_in_the_cache(tree: Path) -> None:
    requirements = tree / TINY / "requirements.txt"
    requirements.write_text("tiny @ file:///nowhere/tiny-1.0-py3-none-any.whl\n")
    with pytest.raises(ImageBuildError, match=f"packages of image {TINY}"):
        packages.install_site_packages(requirements, "x86_64", lambda line: None)
    assert list((tree.parent / "cache" / "sites").iterdir()) == []


def test_unreachable_engine_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ImageBuildError, match=r"Docker engine.*make engine"):
        image_exists("kumite-tiny:1")


@pytest.mark.docker
def test_built_image_imports_its_packages_as_nobody(tree: Path, engine: docker.DockerClient) -> None:
    tag = build_image(TINY)
    assert image_exists(tag)
    assert run(engine, tag, "import tiny; print(tiny.ANSWER)") == "42"
    assert run(engine, tag, f"import sandbox_images.{TINY}.toolset as t; print(t.WORD)") == "one"
    assert run(engine, tag, "import os; print(os.getuid(), os.getgid())") == "65534 65534"
    assert run(engine, tag, "import tiny, os; print(os.path.exists(tiny.__cached__))") == "True"
    privileged = (
        "import os, stat\n"
        "paths = (os.path.join(d, f) for d, _, fs in os.walk('/usr') for f in fs)\n"
        "print(sum(bool(os.lstat(p).st_mode & (stat.S_ISUID | stat.S_ISGID)) for p in paths))"
    )
    assert run(engine, tag, privileged) == "0"


@pytest.mark.docker
def test_changed_toolset_reuses_the_packages_layers(tree: Path, engine: docker.DockerClient) -> None:
    first = build_image(TINY)
    (tree / TINY / "toolset.py").write_text("WORD = 'two'\n")
    second = build_image(TINY)
    assert second != first
    assert run(engine, second, f"import sandbox_images.{TINY}.toolset as t; print(t.WORD)") == "two"
    assert len(engine.images.list(name=f"kumite-{TINY}-site")) == 1


@pytest.mark.docker
def test_image_that_is_there_is_not_built_again(tree: Path, engine: docker.DockerClient) -> None:
    tag = build_image(TINY)
    lines: list[str] = []
    assert build_image(TINY, on_line=lines.append) == tag
    assert lines == []


@pytest.mark.docker
def test_image_is_built_again_for_another_base(tree: Path, engine: docker.DockerClient) -> None:
    tag = build_image(TINY)
    first = engine.images.get(tag)
    (site,) = engine.images.list(name=f"kumite-{TINY}-site")
    assert build_image(TINY, base=site.tags[0]) == tag
    assert first.labels["kumite.base"] != site.tags[0]
    assert engine.images.get(tag).labels["kumite.base"] == site.tags[0]
    engine.images.remove(str(first.id))


@pytest.mark.docker
def test_concurrent_builds_of_one_image_are_one_build(tree: Path, engine: docker.DockerClient) -> None:
    lines: list[str] = []
    tags: list[str] = []

    def build_one() -> None:
        tags.append(build_image(TINY, on_line=lines.append))

    builders = [threading.Thread(target=build_one) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(timeout=600)
    assert len(tags) == 2 and len(set(tags)) == 1
    assert sum(line == f"Successfully tagged {tags[0]}" for line in lines) == 1


@pytest.mark.docker
def test_file_edited_during_a_build_does_not_get_into_it(tree: Path, engine: docker.DockerClient) -> None:
    def edit(line: str) -> None:
        (tree / TINY / "toolset.py").write_text("WORD = 'edited'\n")

    tag = build_image(TINY, on_line=edit)
    assert run(engine, tag, f"import sandbox_images.{TINY}.toolset as t; print(t.WORD)") == "one"
    assert image_tag(TINY) != tag


@pytest.mark.docker
def test_failing_step_is_reported_with_its_output(tree: Path, engine: docker.DockerClient) -> None:
    (tree / TINY / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN echo as planned && exit 3\n")
    with pytest.raises(ImageBuildError, match=r"(?s)returned a non-zero code: 3.*as planned"):
        build_image(TINY)
    assert not image_exists(image_tag(TINY))


@pytest.mark.docker
def test_base_that_cannot_be_had_is_named(tree: Path, engine: docker.DockerClient) -> None:
    with pytest.raises(ImageBuildError, match=re.escape("base image 127.0.0.1:1/none:1")):
        build_image(TINY, base="127.0.0.1:1/none:1")
