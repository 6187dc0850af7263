"""`environment.requirements`: what they come to, resolved once per run."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ConfigError
from workers.settings import EnvironmentSettings, PackageLock

WORKER_REQUIREMENTS = (
    "aiohttp>=3.10",
    "docker>=7.1,<8",
    "httptools>=0.6.4",
    "httpx>=0.27",
    "jinja2>=3.1",
    "openai>=2",
    "pydantic>=2.11,<3",
    "requests>=2.31",
    "verifiers>=0.3.1,<0.5",
    "yarl>=1.9",
)
"""What a worker's own code imports, whatever the environment: part of every environment's packages."""
_LAST_RENDERERS = "renderers<0.1.11"
"""What verifiers 0.3's own clients can be imported with, though it asks for no such bound."""
_TIMEOUT = 900.0
_BUILD_DATE = "315532800"
"""The date in files of a wheel that is built of a folder: the same folder gives the same wheel."""


def lock_packages(settings: EnvironmentSettings) -> PackageLock | None:
    """What to install for an environment: its requirements and the workers' own, resolved together.

    Returns:
        None if it has none of its own.

    Raises:
        ConfigError: They do not resolve, in the resolver's own words, or name what is not there.
    """
    asked, wheels = settings.requirements, settings.wheels
    if asked is None:
        if wheels is not None:
            raise ConfigError(
                f"environment.wheels: got {str(wheels)!r}, and there are no environment.requirements to "
                "install from it; give some, or leave it out"
            )
        return None
    if wheels is not None and not wheels.is_dir():
        raise ConfigError(f"environment.wheels: there is no folder {wheels}")
    with tempfile.TemporaryDirectory(prefix="kumite-lock-") as made:
        folder = Path(made)
        entries = [asked] if isinstance(asked, str) else asked
        lines, built = _read_entries(entries, folder, wheels)
        locked = _compile([*lines, *WORKER_REQUIREMENTS], folder, wheels)
        if _needs_older_renderers(locked):
            locked = _compile([*lines, *WORKER_REQUIREMENTS, _LAST_RENDERERS], folder, wheels)
        return PackageLock(requirements=_without_paths(locked, built), built=built, wheels=wheels)


def uv_program() -> str:
    """uv, beside this Python or on PATH.

    Raises:
        ConfigError: There is none.
    """
    if importlib.util.find_spec("uv") is not None:
        import uv  # type: ignore[import-not-found,unused-ignore]

        return os.fspath(uv.find_uv_bin())
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ConfigError(
            "environment.requirements: they are installed by uv, which is neither beside this Python nor on "
            "PATH; install it on every node: pip install 'uv>=0.8'"
        )
    return found


def index_options(wheels: Path | None) -> list[str]:
    """Uv's options for where packages come from."""
    return [] if wheels is None else ["--no-index", "--find-links", str(wheels.absolute())]


def run_uv(arguments: Sequence[str], *, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs uv and returns how it ended.

    It runs at the root: a `[tool.uv]` of the project in which Kumite is started could override what is asked.
    """
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        [uv_program(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        cwd="/",
        env={**environment, "SOURCE_DATE_EPOCH": _BUILD_DATE, "UV_NO_PROGRESS": "1"},
    )


def _read_entries(
    entries: Sequence[str], folder: Path, wheels: Path | None
) -> tuple[list[str], dict[str, bytes]]:
    """Lines of a requirements file; of each folder among them, a wheel."""
    lines: list[str] = []
    built: dict[str, bytes] = {}
    for entry in entries:
        path = Path(entry)
        if not path.is_absolute():
            lines.append(entry)
        elif path.is_file() and path.suffix != ".whl":
            lines.append(f"-r {path}")
        elif path.is_file() or path.is_dir():
            wheel = path if path.is_file() else _build_wheel(path, folder, wheels)
            built[wheel.name] = wheel.read_bytes()
            lines.append(str(wheel))
        else:
            raise ConfigError(
                f"environment.requirements: there is no {entry}; give requirements such as "
                "'verifiers==0.4.0', a requirements file, or a folder with a pyproject.toml"
            )
    return lines, built


def _build_wheel(source: Path, folder: Path, wheels: Path | None) -> Path:
    if not any((source / name).is_file() for name in ("pyproject.toml", "setup.py")):
        raise ConfigError(f"environment.requirements: the folder {source} has no pyproject.toml")
    out = Path(tempfile.mkdtemp(dir=folder))
    done = run_uv(["build", "--wheel", "--quiet", "--out-dir", str(out), *index_options(wheels), str(source)])
    found = list(out.glob("*.whl"))
    if done.returncode != 0 or not found:
        raise ConfigError(
            f"environment.requirements: the folder {source} cannot be made a package:\n{done.stderr.strip()}"
        )
    return found[0]


def _compile(lines: Sequence[str], folder: Path, wheels: Path | None) -> str:
    asked = folder / "requirements.in"
    asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--python", sys.executable]
    done = run_uv(["pip", "compile", *options, *index_options(wheels), str(asked)])
    if done.returncode != 0:
        own = ", ".join(lines)
        raise ConfigError(
            f"environment.requirements: they do not resolve, together with what a worker needs ({own}); uv "
            f"says:\n{done.stderr.strip()}"
        )
    return done.stdout


def _needs_older_renderers(locked: str) -> bool:
    return re.search(r"^verifiers==0\.3\.", locked, re.MULTILINE) is not None


def _without_paths(locked: str, built: dict[str, bytes]) -> str:
    """The same lock, where a wheel that was built stands by its name and version, as on any node."""
    for name in built:
        distribution, version = name.split("-")[:2]
        line = re.compile(rf"^[\w.-]+ @ file://\S*/{re.escape(name)}(?= |$)", re.MULTILINE)
        alone = re.compile(rf"^(?:file://)?\S*/{re.escape(name)}(?= |$)", re.MULTILINE)
        for pattern in (line, alone):
            locked = pattern.sub(f"{distribution}=={version}", locked)
    return locked
