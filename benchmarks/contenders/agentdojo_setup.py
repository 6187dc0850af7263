"""One episode's AgentDojo environment, the way AgentDojo makes it, in a fresh process of a fresh container.

It runs in Kumite's own image, which lacks the LLM SDKs, so that it is spared the seconds that their import
would take. Prints `ready`, then keeps the environment until it is killed.
"""
# ruff: noqa: E402 - the SDKs must be replaced before agentdojo is imported

import sys
import time

from sandbox_images.agentdojo import llm_sdks

llm_sdks.install_placeholders()

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks.attack_registry import load_attack
from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suite

version, suite_name, user_task, injection_task, attack_name = sys.argv[1:]
pipeline = BasePipelineElement.__new__(
    type("Pipeline", (BasePipelineElement,), {"query": None, "name": "local"})
)
suite = get_suite(version, suite_name)
attack = load_attack(attack_name, suite, pipeline)
task = suite.get_user_task_by_id(user_task)
injections = attack.attack(task, suite.get_injection_task_by_id(injection_task))
environment = task.init_environment(suite.load_and_inject_default_environment(injections))
runtime = FunctionsRuntime(suite.tools)
print("ready", flush=True)
time.sleep(600)
