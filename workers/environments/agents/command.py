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
"""What may stand in braces in a command and in its variables."""


class CommandAgent:
    """A program that finds its model by the usual variables.

    Args:
        command: The program and its arguments; see `PLACES`.
        environment: Variables of its own.
        files: Texts to put into its home, by their paths there.
    """

    id: ClassVar = "command"
    version: ClassVar[str | None] = None
    image: ClassVar = "agent-command"

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], files: Mapping[str, str]
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
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
            environment={name: _filled(value, places) for name, value in self._environment.items()},
            files=self._files,
        )


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name in PLACES:
        if name != "instruction":
            text = text.replace(f"{{{name}}}", places[name])
    return text.replace("{instruction}", places["instruction"])
