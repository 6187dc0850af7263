"""The npm packages of an image, fetched on the host: native programs that need no Node to run.

See `packages.py` for why nothing is installed inside of a container.
"""

import hashlib
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sandbox_images.host import ImageBuildError, OnLine, cache_dir, hold_lock, run_command

_NAMES = {"x86_64": "x64", "aarch64": "arm64"}
"""Architectures as npm's packages name them."""


@dataclass(frozen=True)
class NpmPackage:
    """One line of an image's `npm.txt`."""

    name: str
    """Its folder in `/opt/npm`."""
    spec: str
    """Name and version, as `npm pack` takes them."""
    left_out: tuple[str, ...]
    """Paths in it, or patterns of them, that are not taken."""


def npm_packages(listing: Path, machine: str, on_line: OnLine) -> Path:
    """Fetches and unpacks the packages that a listing names, unless they are in the cache already.

    Args:
        listing: The image's `npm.txt`: on each line a folder's name, a package with its version, in which
            `{arch}` stands for the architecture, and perhaps paths that are not taken.
        machine: The image's architecture, `x86_64` or `aarch64`.
        on_line: Is told what takes time.

    Returns:
        The folder, with one folder for each package in it.

    Raises:
        ImageBuildError: If there is no npm, or it fails.
    """
    key = hashlib.sha256(machine.encode() + listing.read_bytes()).hexdigest()[:12]
    folders = cache_dir() / "npm"
    folder = folders / f"{listing.parent.name}-{key}"
    with hold_lock(f"npm-{folder.name}"):
        if folder.is_dir():
            return folder
        if shutil.which("npm") is None:
            raise ImageBuildError(f"packages of image {listing.parent.name}: npm is missing; install Node.js")
        folders.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folders, prefix="unfinished-"))
        try:
            for package in _listed(listing, machine):
                on_line(f"packages: fetching {package.spec}")
                _fetch(package, unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def _listed(listing: Path, machine: str) -> list[NpmPackage]:
    packages: list[NpmPackage] = []
    for line in listing.read_text().splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2:
            raise ImageBuildError(f"{listing}: {line!r} needs a folder's name and a package with its version")
        spec = words[1].replace("{arch}", _NAMES.get(machine, machine))
        packages.append(NpmPackage(words[0], spec, tuple(words[2:])))
    return packages


def _fetch(package: NpmPackage, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        command = ["npm", "pack", package.spec, "--silent", f"--pack-destination={downloads}"]
        run_command(command, timeout=900, part=f"npm package {package.spec}")
        (archive,) = Path(downloads).glob("*.tgz")
        unpacked = Path(downloads, "unpacked")
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        (unpacked / "package").rename(folder / package.name)
    for pattern in package.left_out:
        for path in (folder / package.name).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
