"""Images of other people's kinds: what they lack is what the tool host has to bring."""

import io
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest


def static_busybox() -> bytes:
    """A busybox that needs no library: this machine's, or that of Debian's package."""
    for found in filter(None, (shutil.which("busybox"), "/bin/busybox")):
        if Path(found).exists():
            told = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
            if told.returncode:
                return Path(found).read_bytes()
    if shutil.which("apt-get") is None:
        pytest.skip("there is no static busybox on this machine, and no apt-get to get one with")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["apt-get", "download", "busybox-static"],
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        packages = list(Path(folder).glob("*.deb"))
        if done.returncode or not packages:
            pytest.skip("there is no static busybox on this machine, and its package can't be fetched")
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), folder], check=True, timeout=60)
        return Path(folder, "bin", "busybox").read_bytes()


@contextmanager
def built(
    engine: docker.DockerClient, dockerfile: str, files: Mapping[str, bytes] | None = None
) -> Iterator[str]:
    """An image built from a Dockerfile and files in its context; it is removed at the end."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in {"Dockerfile": dockerfile.encode(), **(files or {})}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    context.seek(0)
    tag = f"test-other:{uuid.uuid4().hex[:8]}"
    engine.images.build(
        fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, network_mode="none"
    )
    try:
        yield tag
    finally:
        engine.images.remove(tag, force=True)


@contextmanager
def other_architecture(engine: docker.DockerClient, tag: str) -> Iterator[str]:
    """The same image with another architecture in its description; it is removed at the end."""
    name = f"{tag}-arm"
    saved, changed = io.BytesIO(b"".join(engine.images.get(tag).save(named=True))), io.BytesIO()
    with tarfile.open(fileobj=saved) as old, tarfile.open(fileobj=changed, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            content = b"" if file is None else file.read()
            if member.name.endswith(".json"):
                content = content.replace(b'"architecture":"amd64"', b'"architecture":"arm64"')
                content = content.replace(tag.encode(), name.encode())
            if member.name != "repositories":
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    engine.images.load(changed.getvalue())
    try:
        yield name
    finally:
        engine.images.remove(name, force=True)
