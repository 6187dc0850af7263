"""What is played, and what it came to, on either side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.parity.conversation import Message, timeless
from tests.parity.script import digest


@dataclass(frozen=True)
class Setting:
    """What an episode's pipeline and environment are made of."""

    version: str
    suite: str
    attack: str | None = None
    model: str = "local"
    defense: str | None = None
    tool_output: Any = None
    detector: str | None = None
    """A text-classification model in place of the detector's own, which is fetched from a hub."""


@dataclass(frozen=True)
class Task:
    task_id: str
    """As our side names it."""
    user_task: str | None
    injection_task: str | None


@dataclass
class Played:
    """What one episode came to: enough to compare, little enough to keep thousands of."""

    prompts: list[str] = field(default_factory=list)
    """A digest of every prompt that the policy saw."""
    tools: list[list[str]] = field(default_factory=list)
    """Names of the tools that it was offered with each."""
    messages: list[Message] = field(default_factory=list)
    """The last prompt, and with it nearly the whole conversation."""
    state: dict[str, str] = field(default_factory=dict)
    """The environment at the end: each of its fields as JSON."""
    utility: bool | None = None
    attack_success: bool | None = None
    error: str | None = None
    """What it failed with."""
    sampling: list[dict[str, Any]] = field(default_factory=list)
    """What AgentDojo asked the policy with."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """AgentDojo's requests, as its client sends them, where they are kept."""
    record: dict[str, Any] | None = None
    """Our record of it."""

    def saw(self, messages: list[Message], tools: Sequence[dict[str, Any]]) -> None:
        self.prompts.append(digest(messages))
        self.tools.append([tool["name"] for tool in tools])
        self.messages = messages


def plain_state(state: dict[str, Any]) -> dict[str, str]:
    return {name: timeless(json.dumps(value, sort_keys=True)) for name, value in state.items()}


def agentdojo_plays(*args: Any) -> Any:
    """`upstream.play_all`, of which whoever sends it elsewhere need not import AgentDojo."""
    from tests.parity.upstream import play_all

    return play_all(*args)


def agentdojo_plays_lines(*args: Any) -> Any:
    """`upstream.play_lines`, in the same way."""
    from tests.parity.upstream import play_lines

    return play_lines(*args)


def agentdojo_asks(episodes: Sequence[tuple[Setting, Task, Any]]) -> Any:
    """`upstream.play_requests` of each of some episodes, in the same way."""
    from tests.parity.upstream import play_requests

    return [play_requests(*episode) for episode in episodes]
