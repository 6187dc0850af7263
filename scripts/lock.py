"""Write `constraints.txt` and `constraints-gpu.txt`: the versions that `scripts/setup.sh` installs.

Run by `make lock` after a change of the dependencies in `pyproject.toml`. Versions that are already in
the files are kept where they still fit.
"""

import itertools
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
TARGETS = [
    {"python_version": python, "python_full_version": f"{python}.9", "platform_machine": machine}
    | {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for python, machine in itertools.product(["3.11", "3.12", "3.13"], ["x86_64", "aarch64"])
]
# Which of these fit depends on the CUDA version that torch's build for the machine was made with.
CUDA = ("cuda-", "nvidia-", "triton")


def resolve_requirements(extra: str, kept: Path, options: list[str]) -> list[Requirement]:
    """Resolve the project with one extra, `train` and the groups, for every Python and platform."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "constraints.txt")
        if kept.exists():
            output.write_text(kept.read_text())
        command = ["uv", "pip", "compile", "pyproject.toml", "--extra", extra, "--extra", "train"]
        command += [
            "--group",
            "dev",
            "--group",
            "torch-tests",
            "-q",
            "--universal",
            "--python-version",
            "3.11",
        ]
        command += ["--no-header", "--no-annotate"]
        command += [*options, *sys.argv[1:], "-o", str(output)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=600, stdout=subprocess.DEVNULL)
        return [Requirement(line) for line in output.read_text().splitlines() if line[:1].isalnum()]


def narrow_requirements(requirements: list[Requirement]) -> list[str]:
    """Drop what no supported machine installs, and the markers that are true on all of them."""
    versions: defaultdict[str, list[Requirement]] = defaultdict(list)
    for one in requirements:
        if any(one.marker is None or one.marker.evaluate(target) for target in TARGETS):
            versions[one.name].append(one)
    lines: list[str] = []
    for name, found in sorted(versions.items()):
        for one in found:
            # CPU and CUDA builds of torch differ in a local version (`+cpu`) that the extra names itself.
            version = str(one.specifier).split("+")[0]
            lines.append(f"{name}{version}" if len(found) == 1 else f"{name}{version} ; {one.marker}")
    return lines


def main() -> None:
    cpu = ROOT / "constraints.txt"
    gpu = ROOT / "constraints-gpu.txt"
    cpu.write_text("\n".join(narrow_requirements(resolve_requirements("cpu", cpu, []))) + "\n")
    lines = narrow_requirements(resolve_requirements("gpu", gpu if gpu.exists() else cpu, []))
    gpu.write_text("\n".join(line for line in lines if not line.startswith(CUDA)) + "\n")


if __name__ == "__main__":
    main()
