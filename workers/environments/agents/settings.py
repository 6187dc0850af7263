"""`environment.args.agent`: which agent plays, and how much it may ask for."""

import difflib
import os
from pathlib import Path

from pydantic import Field, model_validator

from workers.environments.agents.base import Agent
from workers.environments.agents.codex import Codex
from workers.environments.agents.command import CommandAgent
from workers.environments.agents.mini_swe_agent import MiniSweAgent
from workers.environments.agents.opencode import OpenCode
from workers.errors import EnvironmentLoadError
from workers.gateway.limits import AgentLimits
from workers.settings import Settings

NAMED: dict[str, type[Agent]] = {kind.id: kind for kind in (MiniSweAgent, Codex, OpenCode)}
"""The agents that Kumite knows how to call."""


class AgentArgs(Settings):
    """`environment.args.agent` of the environment `shell`."""

    id: str | None = None
    """`mini-swe-agent`, `codex` or `opencode`. Null if `command` is set."""
    command: list[str] | None = Field(default=None, min_length=1)
    """A program of your own, with its arguments. These names are replaced: `{instruction_file}` by a file
    with the task's text, `{instruction}` by the text, `{answer_file}` by a file to which the program may
    write its last answer, `{home}` by its home folder, `{workspace}` by its working folder, `{base_url}` by
    the gateway's URL without `/v1`, and `{model}` by the model's name."""
    image: str | None = None
    """Name of an image that has the agent. Null: Kumite's own image for the agent; for a `command`, an image
    with Python and the openai and anthropic packages in `/opt/site`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables for the agent, in addition to `OPENAI_BASE_URL`, `OPENAI_API_KEY`,
    `ANTHROPIC_BASE_URL` and `ANTHROPIC_API_KEY`."""
    files: dict[str, str] = Field(default_factory=dict)
    """Files to put into the agent's home folder before it starts: `path in the home folder: path here`,
    relative to the config."""
    max_tokens: int = Field(default=4096, gt=0)
    """Most tokens sampled in one model call, if `policy.sampling.max_tokens` is not set."""
    limits: AgentLimits = Field(default_factory=AgentLimits)
    """How much the agent may ask of the policy in one episode."""

    @model_validator(mode="after")
    def _is_one(self) -> "AgentArgs":
        known = ", ".join(NAMED)
        if (self.id is None or self.id == "command") == (self.command is None):
            raise ValueError(
                f"agent: got id {self.id!r} and command {self.command!r}; give one of them: id, which is one "
                f"of {known}, or command, a program of your own"
            )
        if self.id is not None and self.id != "command" and self.id not in NAMED:
            close = difflib.get_close_matches(self.id, NAMED, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"agent.id: there is no agent {self.id!r}; {hint}There are {known}; a program of your own "
                "is given as `command`"
            )
        return self

    @property
    def name(self) -> str:
        """What steps call it."""
        return self.id or CommandAgent.id

    def agent(self) -> Agent:
        """The agent.

        Raises:
            EnvironmentLoadError: A file of it is not there.
        """
        if self.command is not None:
            return CommandAgent(self.command, self._texts(), self.image)
        return NAMED[self.id or ""]()

    def _texts(self) -> dict[str, str]:
        texts: dict[str, str] = {}
        for name, source in self.files.items():
            path = Path(source)
            place = os.path.normpath(name)
            if not name or "\0" in name or place in (".", "..") or place.startswith(("/", "../")):
                raise EnvironmentLoadError(
                    f"environment.args.agent.files: {name!r} is no path in the agent's home folder; give one "
                    "that begins there and stays there, such as 'config/agent.toml'"
                )
            try:
                texts[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise EnvironmentLoadError(
                    f"environment.args.agent.files.{name}: {path} cannot be read: {error}; give the path "
                    "of a text file, relative to the config"
                ) from error
        return texts
