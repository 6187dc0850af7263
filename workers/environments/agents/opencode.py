"""OpenCode (MIT), which speaks chat completions and streams."""

import json
from typing import ClassVar

from workers.environments.agents.base import HOME, Launch, ModelAccess


class OpenCode:
    """`opencode run`: one task, then it ends."""

    id: ClassVar[str] = "opencode"
    version: ClassVar[str | None] = "1.18.33"
    image: ClassVar[str] = "agent-opencode"

    def launch(self, instruction: str, access: ModelAccess) -> Launch:
        """How it is started for a task."""
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "kumite",
            "options": {"baseURL": f"{access.url}/v1", "apiKey": access.key, "timeout": False},
            "models": {access.model: {"name": access.model, "tool_call": True}},
        }
        config = {
            "$schema": "https://opencode.ai/config.json",
            "model": f"kumite/{access.model}",
            "small_model": f"kumite/{access.model}",
            "enabled_providers": ["kumite"],
            "provider": {"kumite": provider},
            "autoupdate": False,
            "share": "disabled",
            "permission": {"edit": "allow", "bash": "allow", "webfetch": "deny"},
            "lsp": False,
            "formatter": False,
        }
        return Launch(
            command=["opencode", "run", "--model", f"kumite/{access.model}", instruction],
            environment={
                "OPENCODE_CONFIG": f"{HOME}/opencode.json",
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
                "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
                "XDG_CONFIG_HOME": f"{HOME}/config",
                "XDG_DATA_HOME": f"{HOME}/data",
                "XDG_CACHE_HOME": f"{HOME}/cache",
                "XDG_STATE_HOME": f"{HOME}/state",
            },
            files={"opencode.json": json.dumps(config, indent=2)},
        )
