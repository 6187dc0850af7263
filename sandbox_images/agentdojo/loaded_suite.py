"""A suite as the tool host holds it: its caches warm, shared by every session that is forked."""

import hashlib
import json

from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.attacks import AttackCache
from sandbox_images.agentdojo.environments import EnvironmentCache
from sandbox_images.agentdojo.state import BaseState
from sandbox_images.tool_host.toolset import ToolsetError


class LoadedSuite:
    """A suite with its caches warm."""

    def __init__(self, version: str, suite: TaskSuite) -> None:
        self.suite = suite
        self.environments = EnvironmentCache(suite)
        self.base_state = BaseState(f"agentdojo-{version}-{suite.name}", self.environments.default)
        # Attacks run the ground truth in an environment with canaries, once per user task.
        suite.load_and_inject_default_environment = self.environments.copy
        self.attacks = AttackCache(suite)
        self.tools = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_json_schema(),
            }
            for tool in suite.tools
        ]
        # By what they are: suites of a user's own may share a name.
        digest = hashlib.blake2s(json.dumps(self.tools).encode(), digest_size=6).hexdigest()
        self.tools_id = f"agentdojo-{version}-{suite.name}-{digest}"

    def task(self, task_id: str) -> BaseUserTask | BaseInjectionTask:
        """A user or injection task by its id."""
        tasks = self.suite.user_tasks | self.suite.injection_tasks
        if task_id not in tasks:
            raise ToolsetError(f"suite {self.suite.name} has no task {task_id!r}")
        return tasks[task_id]
