"""What Kumite needs to know of an agent."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

HOME = "{home}"
"""In commands, variables and files: the agent's own folder, beside the workspace."""
WORKSPACE = "{workspace}"
"""The folder that it works in, which is its working directory as well."""
INSTRUCTION_FILE = f"{HOME}/instruction.md"
"""Where the task's text is."""
ANSWER_FILE = f"{HOME}/answer.txt"
"""Where an agent may write its last words. Of one that does not, the policy's last message is taken."""


@dataclass(frozen=True)
class ModelAccess:
    """How an agent reaches its model."""

    url: str
    """The gateway's address inside of the container, without a path."""
    key: str
    """The session's own secret."""
    model: str
    """The policy's name."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which nearly all agents and packages find a model."""
        return {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_BASE": f"{self.url}/v1",
            "OPENAI_API_KEY": self.key,
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": self.key,
            "KUMITE_MODEL": self.model,
        }


@dataclass(frozen=True)
class Launch:
    """How an agent is started for one task."""

    command: list[str]
    """The program and its arguments."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Variables beside those of `ModelAccess`."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Texts that are written into its home first, by their paths there."""


class Agent(Protocol):
    """One agent; each is one file of this folder."""

    id: ClassVar[str]
    """Its name in configs and records."""
    version: ClassVar[str | None]
    """The version that its image holds. None of an agent of the user's own."""
    image: ClassVar[str]
    """Folder under `sandbox_images/` that its image is built from."""

    def launch(self, instruction: str, access: ModelAccess) -> Launch:
        """How it is started for a task."""
        ...
