"""An AgentDojo environment's state as JSON, and what changed in it from call to call."""

import hashlib
import json
from typing import Any

from agentdojo.functions_runtime import TaskEnvironment

from sandbox_images.tool_host.json_patch import Patch, diff


class BaseState:
    """A suite's environment before any injection.

    Args:
        label: What the id begins with, for a reader's sake.
        environment: The environment.
    """

    def __init__(self, label: str, environment: TaskEnvironment) -> None:
        self.environment = environment
        self.dump: dict[str, Any] = environment.model_dump()
        self.json: dict[str, Any] = environment.model_dump(mode="json")
        digest = hashlib.blake2s(json.dumps(self.json, sort_keys=True).encode(), digest_size=6).hexdigest()
        self.id = f"{label}-{digest}"


class StateTracker:
    """Follows one episode's environment.

    Args:
        base: Where the first patch starts from.
        environment: The episode's own environment, which its tools change.
    """

    def __init__(self, base: BaseState, environment: TaskEnvironment) -> None:
        self._base = base
        self._environment = environment
        self._dump = dict(base.dump)
        self._json = dict(base.json)
        kind = type(environment)
        self._has_more_than_fields = (
            bool(kind.model_computed_fields) or kind.model_config.get("extra") == "allow"
        )

    def first_patch(self) -> Patch:
        """From the base state to the state that the episode begins in."""
        fields = type(self._environment).model_fields
        base = self._base.environment
        return self.patch(
            {name for name in fields if getattr(self._environment, name) is not getattr(base, name)}
        )

    def patch(self, fields: set[str]) -> Patch:
        """What changed in these top-level fields since they were last looked at."""
        patch: Patch = []
        if self._has_more_than_fields:  # which may change with any of them
            after = self._environment.model_dump(mode="json")
            patch, self._json = diff(self._json, after), after
            return patch
        for name, value in self._environment.model_dump(include=fields).items():
            if self._dump[name] == value:
                continue
            after = self._environment.model_dump(mode="json", include={name})[name]
            patch += diff(self._json[name], after, f"/{name}")
            self._dump[name], self._json[name] = value, after
        return patch
