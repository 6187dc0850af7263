"""A reader who follows the pages to the letter, in a checkout of their own."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.pages import ROOT, blocks_by_task

IN_THE_CHECKOUT = {"load-data", "job", "cluster-files"}
"""Tasks whose commands the pages give in the project's folder."""
_PATIENCE = 600
"""Seconds that one command may take."""
_FOLDER = re.compile(r"^dataset: (.+)$", re.M)


@dataclass
class Reader:
    checkout: Path
    """The project's folder."""
    folder: Path
    """The reader's own."""
    environment: dict[str, str]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """How long the commands of each task took."""

    def follow(self, task: str, given: Mapping[str, str] | None = None, **environment: Any) -> str:
        """Writes the files of a task's blocks, and carries out its commands and programs, in their order.

        Args:
            task: As the marker names it.
            given: What the reader puts in place of what the page leaves open; all of it must occur.
            environment: Variables of the reader's shell.

        Returns:
            What the commands and programs printed. The blocks in Python are one program.
        """
        said: list[str] = []
        program = ""
        for text, language, file in self._filled(task, given or {}):
            if file is not None:
                path = self.place_of(task) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif language == "sh":
                said.append(self.command(task, text, **environment))
            else:
                program += text
        if program:
            (self.place_of(task) / "program.py").write_text(program)
            said.append(self.command(task, "python program.py", **environment))
        return "".join(said)

    def write(self, task: str, given: Mapping[str, str] | None = None) -> None:
        """Writes the files of a task's blocks alone."""
        for text, _, file in self._filled(task, given or {}):
            if file is not None:
                (self.place_of(task) / file).write_text(text)

    def command(self, task: str, text: str, *, code: int = 0, **environment: str) -> str:
        """Carries out commands in a shell of their own.

        Args:
            task: For which they are.
            text: The commands.
            code: The exit code that they must have.
            environment: More variables of that shell.

        Returns:
            What they printed.
        """
        began = time.monotonic()
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.place_of(task),
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as shell:
            try:
                said, complained = shell.communicate(timeout=_PATIENCE)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)  # what it has started, too
                raise
        self.seconds[task] += time.monotonic() - began
        assert shell.returncode == code, f"{text}\n{said}\n{complained}"
        return said + complained

    def place_of(self, task: str) -> Path:
        """Where a task is done."""
        return self.checkout if task in IN_THE_CHECKOUT else self.folder

    def run_of(self, task: str, said: str) -> Path:
        """The folder of the last run that a command of a task told of."""
        return self.place_of(task) / _FOLDER.findall(said)[-1]

    def _filled(self, task: str, given: Mapping[str, str]) -> list[tuple[str, str, str | None]]:
        blocks = blocks_by_task()[task]
        for placeholder in given:
            assert any(placeholder in block.text for block in blocks), f"{task}: no block has {placeholder}"
        filled: list[tuple[str, str, str | None]] = []
        for block in blocks:
            text = block.text
            for placeholder, value in given.items():
                text = text.replace(placeholder, value)
            filled.append((text, block.language, block.file))
        return filled


def check_out(folder: Path) -> None:
    """Makes a checkout of the project's own files, which is set up with this process's packages."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    for file in listed.stdout.splitlines():
        if (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        os.symlink(entry, folder / ".venv" / entry.name)
    setup = f"cpu {folder}\n".encode()
    texts = [setup, *((folder / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))]
    stamp = folder / ".venv" / ".kumite-setup"
    stamp.unlink(missing_ok=True)  # a link, if the packages are those of a checkout that was set up
    stamp.write_text(hashlib.sha256(b"".join(texts)).hexdigest() + "\n")
