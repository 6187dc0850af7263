"""The image that sandbox images start from: Debian bookworm with Python 3.11 and nothing else."""

import os
import shutil
import tempfile
from pathlib import Path

from sandbox_images import engine
from sandbox_images.host import ImageBuildError, OnLine, cache_dir, hold_lock, run_command

PUBLIC = "python:3.11-slim-bookworm"
LOCAL = "kumite-base:bookworm"
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
UNNEEDED = (
    *("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "usr/lib/locale"),
    *("var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "var/log"),
)


def base_image(base: str | None, machine: str, on_line: OnLine) -> str:
    """Finds, pulls or makes the base image.

    Args:
        base: An image of the user's choice with Python 3.11; `KUMITE_BASE_IMAGE` if null, and if that is
            not set: the public Python image if the engine has it or gets it, else one made by debootstrap.
        machine: The engine's architecture, `x86_64` or `aarch64`.
        on_line: Is told what takes time.

    Returns:
        The name of an image that the engine has.

    Raises:
        ImageBuildError: If there is no way to one; it names each way that failed.
    """
    with hold_lock("base-image"):
        if chosen := base or os.environ.get("KUMITE_BASE_IMAGE"):
            if engine.read_image_labels(chosen) is None:
                on_line(f"base image: pulling {chosen}")
                if problem := engine.pull_image(chosen):
                    raise ImageBuildError(f"base image {chosen}: not there, and not to be pulled: {problem}")
            return chosen
        for name in (PUBLIC, LOCAL):
            if engine.read_image_labels(name) is not None:
                return name
        on_line(f"base image: pulling {PUBLIC}")
        problem = engine.pull_image(PUBLIC)
        if problem is None:
            return PUBLIC
        on_line(f"base image: {PUBLIC} cannot be pulled; making {LOCAL} with debootstrap")
        _make_base_image(machine, f"base image: {PUBLIC} cannot be pulled ({problem})", on_line)
        return LOCAL


def _make_base_image(machine: str, why: str, on_line: OnLine) -> None:
    """Makes the local base image."""
    if os.geteuid() != 0:
        raise ImageBuildError(
            f"{why}, and to make one with debootstrap takes root; "
            "let KUMITE_BASE_IMAGE name an image that has Python 3.11"
        )
    if os.uname().machine != machine:
        raise ImageBuildError(f"{why}, and the engine's architecture, {machine}, is not this host's")
    if shutil.which("debootstrap") is None:
        if shutil.which("apt-get") is None:
            raise ImageBuildError(f"{why}, and there is no debootstrap; install it")
        part = "base image: installing debootstrap"
        run_command(["apt-get", "update"], timeout=300, part=part)
        packages = ["debootstrap", "debian-archive-keyring"]
        run_command(
            ["apt-get", "install", "-y", "--no-install-recommends", *packages], timeout=600, part=part
        )
    cache_dir().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache_dir(), prefix="debootstrap-"))
    root, archive, dockerfile = folder / "root", folder / "root.tar", folder / "Dockerfile"
    try:
        # In a mount namespace of its own, so that a killed debootstrap leaves no mounted /proc behind.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", "--include=python3"]
        command += [f"--arch={DEBIAN_NAMES[machine]}", "bookworm", str(root)]
        run_command(command, timeout=900, part="base image")
        for name in UNNEEDED:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("hostname", "resolv.conf"):  # debootstrap copies the host's
            (root / "etc" / name).unlink(missing_ok=True)
        # An archive in the build context keeps owners and modes, which plain files there do not.
        command = ["tar", "--numeric-owner", "--sort=name", "-C", str(root), "-cf", str(archive), "."]
        run_command(command, timeout=600, part="base image")
        dockerfile.write_text("FROM scratch\nADD root.tar /\n")
        engine.run_build(LOCAL, dockerfile, {"root.tar": archive}, on_line=on_line)
    finally:
        shutil.rmtree(folder)
