"""The runtimes of verifiers 0.4.0 that the benchmarks of its v1 API have as peers."""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import docker.errors

from sandbox_images import build, engine
from sandbox_images.base_image import base_image
from sandbox_images.host import cache_dir, hold_lock, run_command
from sandbox_images.packages import PYTHON, install_site_packages, list_platforms

SUBPROCESS: dict[str, Any] = {"type": "subprocess"}
"""It isolates nothing."""
_HARNESS = build.ROOT / "harness"
_WHEELS = _HARNESS / build.PROGRAMS / "chat-mcp-2.txt"
"""What the program of the harnesses `null` and `bash` needs, with versions."""
_DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY uv /usr/local/bin/uv
COPY wheels /wheels
ENV UV_DEFAULT_INDEX=file:///wheels UV_FIND_LINKS=/wheels UV_PYTHON_DOWNLOADS=never
"""


def has_bridge() -> bool:
    """Whether the engine has the network `bridge`, which verifiers' Docker runtime takes."""
    with engine.connect_engine() as client:
        try:
            client.networks.get("bridge")
        except docker.errors.NotFound:
            return False
    return True


def docker_runtime() -> dict[str, Any]:
    """verifiers' Docker runtime, as a seat's config has it, in an image where its programs start offline.

    The runtime has uv install a program's packages in each container. Its users' containers take them from an
    index; here they lie in the image as wheels, which saves it the time of the downloads.

    Raises:
        ImageBuildError: The image cannot be built.
    """
    with hold_lock("benchmark-verifiers"):
        machine = engine.read_machine()
        base = base_image(None, machine, print)
        uv = install_site_packages(_HARNESS / "requirements.txt", machine, print) / "bin" / "uv"
        digest = hashlib.sha256(f"{engine.read_image_id(base)} {uv.parents[1].name}\n{_DOCKERFILE}".encode())
        digest.update(_WHEELS.read_bytes())
        tag = f"kumite-benchmark-verifiers:{digest.hexdigest()[:12]}"
        if not build.image_exists(tag):
            _build_image(tag, base, uv, machine)
    return {"type": "docker", "image": tag}


def _build_image(tag: str, base: str, uv: Path, machine: str) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache_dir(), prefix="wheels-"))
    try:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        pip += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
        pip += [f"--platform={platform}" for platform in list_platforms(machine)]
        pip += [f"--requirement={_WHEELS}", f"--dest={folder / 'wheels'}"]
        run_command(pip, timeout=900, part="wheels of verifiers' chat program")
        dockerfile = folder / "Dockerfile"
        dockerfile.write_text(_DOCKERFILE)
        context = {"uv": uv, "wheels": folder / "wheels"}
        engine.run_build(tag, dockerfile, context, arguments={"BASE": base}, on_line=print)
    finally:
        shutil.rmtree(folder)
