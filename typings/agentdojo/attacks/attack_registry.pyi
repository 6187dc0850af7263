"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

from typing import TypeVar

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks.base_attacks import BaseAttack
from agentdojo.task_suite.task_suite import TaskSuite

ATTACKS: dict[str, type[BaseAttack]]

A = TypeVar("A", bound=BaseAttack)

def register_attack(attack: type[A]) -> type[A]: ...
def load_attack(
    attack_name: str, task_suite: TaskSuite, target_pipeline: BasePipelineElement
) -> BaseAttack: ...
