"""mini-swe-agent (MIT), which speaks chat completions through litellm."""

from typing import ClassVar

from workers.environments.agents.base import ANSWER_FILE, HOME, Launch, ModelAccess

_RUN = """\
import json, sys
sys.path.append("/opt/site")
from minisweagent.run.mini import app
output, answer = sys.argv.pop(1), sys.argv.pop(1)
sys.argv[0] = "mini"
try:
    app()
finally:
    try:
        said = json.load(open(output))["info"].get("submission")
    except (OSError, ValueError, KeyError):
        said = None
    if said:
        open(answer, "w").write(said)
"""
"""Its own command line, from the packages in the image; what it submits are its last words."""


class MiniSweAgent:
    """`mini`, without a person to confirm what it does."""

    id: ClassVar[str] = "mini-swe-agent"
    version: ClassVar[str | None] = "2.4.6"
    image: ClassVar[str] = "agent-mini-swe-agent"

    def launch(self, instruction: str, access: ModelAccess) -> Launch:
        """How it is started for a task."""
        trajectory = f"{HOME}/trajectory.json"
        return Launch(
            command=[
                *("python3", "-s", f"{HOME}/run.py", trajectory, ANSWER_FILE),
                *("--yolo", "--exit-immediately", "--cost-limit", "0", "--output", trajectory),
                *("--model", f"openai/{access.model}", "--task", instruction),
            ],
            environment={
                "MSWEA_CONFIGURED": "true",
                "MSWEA_COST_TRACKING": "ignore_errors",
                "MSWEA_GLOBAL_CONFIG_DIR": f"{HOME}/config",
                "MSWEA_SILENT_STARTUP": "1",
                "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "3",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_TELEMETRY": "False",
            },
            files={"run.py": _RUN},
        )
