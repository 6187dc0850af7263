"""The Python that runs an environment's code: this process's own, or one with packages of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {module} import main; main()"
_START_APART = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"
_OF_ANOTHER_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class OwnPython:
    """A Python with packages of an environment's own."""

    executable: str
    code: str
    """A folder with our packages, and nothing else, for it to import."""


def start_process(
    module: str,
    python: OwnPython | None,
    variables: Mapping[str, str],
    passed: Sequence[int],
    stdin: int | None = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Starts a process that runs a module's `main`.

    Args:
        module: One of `workers`.
        python: What runs it. None: this Python, with this process's import path.
        variables: Its environment variables; those of another Python are left out.
        passed: Descriptors that it inherits, whose numbers are its command-line arguments.
        stdin: Its standard input. None: this process's.
    """
    return subprocess.Popen(
        start_command(module, [str(descriptor) for descriptor in passed], python),
        pass_fds=passed,
        stdin=stdin,
        env=own_environment(variables, python),
    )


def start_command(module: str, arguments: list[str], python: OwnPython | None) -> list[str]:
    """The command that runs a module's `main`.

    Args:
        module: One of `workers`.
        arguments: Its command-line arguments.
        python: What runs it. None: this Python, with this process's import path.
    """
    if python is None:
        command, path = [sys.executable, "-c", _START], json.dumps(sys.path)
    else:
        command, path = [python.executable, "-c", _START_APART], python.code
    return [*command[:-1], command[-1].format(module=module), path, *arguments]


def own_environment(variables: Mapping[str, str], python: OwnPython | None) -> dict[str, str]:
    """The variables of a process that a Python runs: those of another one are left out."""
    if python is None:
        return dict(variables)
    kept = {name: value for name, value in variables.items() if name not in _OF_ANOTHER_PYTHON}
    programs = os.path.dirname(python.executable)
    return kept | {"PATH": os.pathsep.join([programs, kept.get("PATH", os.defpath)])}
