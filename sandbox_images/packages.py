"""The Python packages of an image, installed on the host for the image's Python.

A build inside a container would need a network, and often fails on TLS where a company's own certificate
authority is known to the host alone.
"""

import hashlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

from sandbox_images.host import ImageBuildError, OnLine, cache_dir, hold_lock, run_command

PYTHON = "3.11"
"""The images' Python: that of Debian bookworm and of `python:3.11-slim-bookworm`."""
GLIBC_MINOR = 36
"""The images' C library is glibc 2.36, so wheels for it and for anything older run there."""


def install_site_packages(requirements: Path, machine: str, on_line: OnLine) -> Path:
    """Installs the packages of a requirements file into a folder of the cache, unless it is there already.

    Dependencies are not followed: pip would evaluate their conditions for the host's Python, and an image
    should hold what its folder says, no less and no more.

    Args:
        requirements: A pip requirements file that lists every package.
        machine: The image's architecture as wheels name it: `x86_64` or `aarch64`.
        on_line: Is told when packages are installed.

    Returns:
        The folder, to be copied into an image as one entry of its `sys.path`.

    Raises:
        ImageBuildError: If pip fails.
    """
    key = hashlib.sha256(f"{PYTHON} {machine}\n".encode() + requirements.read_bytes()).hexdigest()[:12]
    sites = cache_dir() / "sites"
    site = sites / f"{requirements.parent.name}-{key}"
    with hold_lock(f"site-{site.name}"):
        if site.is_dir():
            return site
        if importlib.util.find_spec("pip") is None:
            raise ImageBuildError(f"pip is missing; install it with: {sys.executable} -m ensurepip")
        on_line(f"packages: installing {requirements.parent.name}'s for Python {PYTHON}, {machine}")
        sites.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=sites, prefix="unfinished-"))
        try:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
            pip += ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
            pip += [f"--platform={platform}" for platform in list_platforms(machine)]
            pip += [f"--requirement={requirements}", f"--target={unfinished / 'site'}"]
            run_command(pip, timeout=900, part=f"packages of image {requirements.parent.name}")
            (unfinished / "site").rename(site)
        finally:
            shutil.rmtree(unfinished)
    return site


def list_platforms(machine: str) -> list[str]:
    """Returns the wheel platforms that run in the images, newest first."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 16, -1)]
    return [*tags, f"manylinux2014_{machine}"]
