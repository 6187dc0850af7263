"""Codex CLI (Apache-2.0), which speaks Responses and streams."""

import json
from typing import ClassVar

from workers.environments.agents.base import ANSWER_FILE, HOME, Launch, ModelAccess

_CONFIG = """\
model = {model}
model_provider = "kumite"
check_for_update_on_startup = false
web_search = "disabled"

[model_providers.kumite]
name = "kumite"
base_url = {url}
env_key = "OPENAI_API_KEY"
wire_api = "responses"
request_max_retries = 4
stream_max_retries = 4
stream_idle_timeout_ms = 3600000
supports_websockets = false

[analytics]
enabled = false

[feedback]
enabled = false

[history]
persistence = "none"
"""


class Codex:
    """`codex exec`: it works until it says that it is done. The container stands for its own sandbox."""

    id: ClassVar[str] = "codex"
    version: ClassVar[str | None] = "0.171.0"
    image: ClassVar[str] = "agent-codex"

    def launch(self, instruction: str, access: ModelAccess) -> Launch:
        """How it is started for a task."""
        config = _CONFIG.format(model=json.dumps(access.model), url=json.dumps(f"{access.url}/v1"))
        return Launch(
            command=[
                *("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
                *("--color", "never", "--output-last-message", ANSWER_FILE, "--", instruction),
            ],
            environment={"CODEX_HOME": f"{HOME}/.codex"},
            files={".codex/config.toml": config},
        )
