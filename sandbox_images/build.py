"""The builder of sandbox images: with a registry, without one, and without any network in a build step."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sandbox_images import engine
from sandbox_images.base_image import base_image
from sandbox_images.host import ImageBuildError, OnLine, hold_lock
from sandbox_images.npm_packages import npm_packages
from sandbox_images.packages import install_site_packages

__all__ = ["ImageBuildError", "build_image", "image_exists", "image_names", "image_tag"]

VERSION = "0.1.0"
ROOT = Path(__file__).parent
SITE_DOCKERFILE = "site.Dockerfile"
NPM_DOCKERFILE = "npm.Dockerfile"
PROGRAM_DOCKERFILE = "program.Dockerfile"
PARTS, NPM = "parts.txt", "npm.txt"
"""Files that an image's folder may have: other folders here that go into it, and packages from npm."""
PROGRAMS = "programs"
"""A folder that it may have: lists of packages, each of which becomes a virtual environment of its own."""


def image_names() -> list[str]:
    """Returns the names of the images that can be built: the folders that have a Dockerfile."""
    return sorted(path.parent.name for path in ROOT.glob("*/Dockerfile"))


def image_tag(name: str) -> str:
    """Returns the tag of an image as its sources are now: `kumite-<name>:<version>-<hash of the sources>`.

    Raises:
        ImageBuildError: If there is no such image.
    """
    return _make_tag(name, ROOT)


def image_exists(tag: str) -> bool:
    """Says whether the engine has an image.

    Raises:
        ImageBuildError: If no engine answers.
    """
    return engine.read_image_labels(tag) is not None


def has_tool_host(tag: str) -> bool:
    """Says whether an image brings a tool host: one of ours, or made from one, or none that the engine has.

    Raises:
        ImageBuildError: If no engine answers.
    """
    started = engine.entrypoint(tag)
    return started is None or "sandbox_images.tool_host" in started


def programs_digest(name: str) -> str | None:
    """Returns what the programs of an image are known by, the virtual environments in `/opt/harness`.

    Null for an image that has none.
    """
    listings = _list_programs(name, ROOT)
    files = [ROOT / PROGRAM_DOCKERFILE, *listings]
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()[:12] if listings else None


def build_image(name: str, *, base: str | None = None, on_line: OnLine = lambda line: None) -> str:
    """Builds an image from its folder here, unless the engine has it as its sources are now.

    Args:
        name: The folder's name.
        base: An image with Python 3.11 to start from. Null: see `base_image`.
        on_line: Takes lines of progress.

    Returns:
        The image's tag.

    Raises:
        ImageBuildError: If it cannot be built.
    """
    with tempfile.TemporaryDirectory() as folder, hold_lock(f"image-{name}"):
        root = Path(folder, "sandbox_images")
        _copy_sources(name, root)
        tag = _make_tag(name, root)
        present = engine.read_image_labels(tag)
        if present is not None and base in (None, present.get("kumite.base")):
            return tag
        machine = engine.read_machine()
        base = base_image(base, machine, on_line)
        folder = root / name
        site = _build_layer(
            "site",
            folder / "requirements.txt",
            install_site_packages,
            root / SITE_DOCKERFILE,
            base,
            machine,
            on_line,
        )
        if (folder / NPM).is_file():
            site = _build_layer(
                "npm", folder / NPM, npm_packages, root / NPM_DOCKERFILE, site, machine, on_line
            )
        for listing in _list_programs(name, root):
            site = _build_program_layer(listing, root / PROGRAM_DOCKERFILE, site, machine, on_line)
        engine.run_build(
            tag,
            root / name / "Dockerfile",
            {
                f"sandbox_images/{path.relative_to(root).as_posix()}": path
                for path in _list_sources(name, root)
            },
            arguments={"BASE": site},
            labels={"kumite.image": name, "kumite.base": base},
            on_line=on_line,
        )
    return tag


def _build_layer(
    kind: str,
    listing: Path,
    install: Callable[[Path, str, OnLine], Path],
    dockerfile: Path,
    base: str,
    machine: str,
    on_line: OnLine,
) -> str:
    """Builds a layer that stays when a toolset changes: the packages that a file lists, on a base.

    It is an image of its own because a build sends its whole context to the engine.
    """
    digest = hashlib.sha256(engine.read_image_id(base).encode())
    digest.update(dockerfile.read_bytes() + listing.read_bytes())
    tag = f"kumite-{listing.parent.name}-{kind}:{digest.hexdigest()[:12]}"
    if engine.read_image_labels(tag) is None:
        folder = install(listing, machine, on_line)
        engine.run_build(tag, dockerfile, {kind: folder}, arguments={"BASE": base}, on_line=on_line)
    return tag


def _build_program_layer(listing: Path, dockerfile: Path, base: str, machine: str, on_line: OnLine) -> str:
    """Builds a layer with a virtual environment in `/opt/harness`: the packages that a file lists."""
    digest = hashlib.sha256(engine.read_image_id(base).encode())
    digest.update(dockerfile.read_bytes() + listing.read_bytes())
    tag = f"kumite-program-{listing.stem}:{digest.hexdigest()[:12]}"
    if engine.read_image_labels(tag) is None:
        packages = install_site_packages(listing, machine, on_line)
        engine.run_build(
            tag,
            dockerfile,
            {"program": packages, "packages.txt": listing},
            arguments={"BASE": base, "NAME": listing.stem},
            on_line=on_line,
        )
    return tag


def _list_programs(name: str, root: Path) -> list[Path]:
    """Returns the lists of packages that become virtual environments of an image."""
    return sorted(
        (
            path
            for folder in [name, *_list_parts(name, root)]
            for path in (root / folder / PROGRAMS).glob("*.txt")
        ),
        key=lambda path: path.name,
    )


def _list_parts(name: str, root: Path) -> list[str]:
    """Returns the other folders that go into an image."""
    parts = root / name / PARTS
    return parts.read_text().split() if parts.is_file() else []


def _dockerfiles(name: str, root: Path) -> list[Path]:
    """Returns the Dockerfiles below an image's own."""
    below = [root / SITE_DOCKERFILE]
    if (root / name / NPM).is_file():
        below.append(root / NPM_DOCKERFILE)
    if _list_programs(name, root):
        below.append(root / PROGRAM_DOCKERFILE)
    return below


def _make_tag(name: str, root: Path) -> str:
    digest = hashlib.sha256()
    for path in [*_dockerfiles(name, root), *_list_sources(name, root)]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return f"kumite-{name}:{VERSION}-{digest.hexdigest()[:12]}"


def _copy_sources(name: str, root: Path) -> None:
    """Copies what an image is built from, so that its tag holds even if a file is edited meanwhile."""
    for path in [*_dockerfiles(name, ROOT), *_list_sources(name, ROOT)]:
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _list_sources(name: str, root: Path) -> list[Path]:
    """Returns every file that goes into an image, in a fixed order."""
    if not (root / name / "Dockerfile").is_file():
        raise ImageBuildError(f"image {name!r}: there is none of that name, only {', '.join(image_names())}")
    folders = ["tool_host", name, *_list_parts(name, root)]
    files = [root / "__init__.py", *(path for folder in folders for path in (root / folder).rglob("*"))]
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)
