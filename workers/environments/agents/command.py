"""An agent of the user's own: any program, by its command."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from workers.environments.agents.base import (
    ANSWER_FILE,
    HOME,
    INSTRUCTION_FILE,
    WORKSPACE,
    Launch,
    ModelAccess,
)

PLACES = ("instruction", "instruction_file", "answer_file", "home", "workspace", "base_url", "model")
"""What may stand in braces in a command."""


class CommandAgent:
    """A program that finds its model by the usual variables.

    Args:
        command: The program and its arguments; see `PLACES`.
        files: Texts to put into its home, by their paths there.
        image: The user's own image. None: Kumite's, with packages in `/opt/site`.
    """

    id: ClassVar[str] = "command"
    version: ClassVar[str | None] = None
    image: ClassVar[str] = "agent-command"

    def __init__(self, command: Sequence[str], files: Mapping[str, str], image: str | None = None) -> None:
        self._command = list(command)
        self._own_image = image is not None
        self._files = dict(files)

    def launch(self, instruction: str, access: ModelAccess) -> Launch:
        """How it is started for a task."""
        places = {
            "instruction": instruction,
            "instruction_file": INSTRUCTION_FILE,
            "answer_file": ANSWER_FILE,
            "home": HOME,
            "workspace": WORKSPACE,
            "base_url": access.url,
            "model": access.model,
        }
        return Launch(
            command=[_filled(part, places) for part in self._command],
            environment={} if self._own_image else {"PYTHONPATH": "/opt/site"},
            files=self._files,
        )


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name in PLACES:
        if name != "instruction":
            text = text.replace(f"{{{name}}}", places[name])
    return text.replace("{instruction}", places["instruction"])
