"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

import abc

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.task_suite.task_suite import TaskSuite

DEFAULT_MODEL_NAME: str
DEFAULT_USER_NAME: str

class BaseAttack(abc.ABC):
    is_dos_attack: bool = False
    name: str
    task_suite: TaskSuite
    target_pipeline: BasePipelineElement
    def __init__(self, task_suite: TaskSuite, target_pipeline: BasePipelineElement) -> None: ...
    def get_injection_candidates(self, user_task: BaseUserTask) -> list[str]: ...
    def attack(self, user_task: BaseUserTask, injection_task: BaseInjectionTask) -> dict[str, str]: ...

class FixedJailbreakAttack(BaseAttack):
    user_name: str = ...
    model_name: str = ...
    jailbreak: str
    def __init__(
        self, jailbreak: str, task_suite: TaskSuite, target_pipeline: BasePipelineElement
    ) -> None: ...
    def summarize_task(self, task: BaseUserTask) -> str: ...

def get_model_name_from_pipeline(pipeline: BasePipelineElement) -> str: ...
