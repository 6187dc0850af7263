"""Agents that nobody has changed, in containers without a network: shell tasks of each kind, all solved."""

import json
from typing import Any

import pytest

from cluster.pool.images import ensure_image, with_image
from sandbox_images.base_image import base_image
from sandbox_images.build import build_image
from sandbox_images.engine import read_machine
from tests.helpers.agent_policy import AgentPolicy
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.workers.agents.test_agent_episodes import agent
from workers.environments.shell.environment import load_environment
from workers.records import EpisodeRecord
from workers.settings import PolicyEndpoint, SandboxSettings

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TASKS = ["find-effective-port", "fix-pagination", "write-justify"]
MORE = [*TASKS, "find-brute-force", "write-roman-numerals"]
OWN = {
    "command": ["python", "{home}/agent.py", "{instruction_file}", "{answer_file}"],
    "files": {"agent.py": "examples/my_agent.py"},
}


def episodes(image: str, agent: dict[str, Any], tasks: list[str]) -> list[EpisodeRecord]:
    """The tasks, two at a time."""
    with AgentPolicy(*tasks) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, token_ids=True)
        sandbox = {"backend": "docker", "image": build_image(image)}
        args = {"tasks": tasks, "agent": agent}
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=sandbox) as worker:
            specs = [spec(row) for row in rows(worker)]
            results = [
                result
                for start in range(0, len(specs), 2)
                for result in played(worker, *specs[start : start + 2])
            ]
    return [record(result) for result in results]


@pytest.mark.parametrize(
    ("image", "agent", "dialect", "branches"),
    [
        ("agent-codex", {"id": "codex"}, "responses", 1),
        ("agent-mini-swe-agent", {"id": "mini-swe-agent"}, "chat", 1),
        ("agent-opencode", {"id": "opencode"}, "chat", 2),  # one asks for a title
        ("agent-command", OWN, "messages", 1),
    ],
    ids=["codex", "mini-swe-agent", "opencode", "anthropic"],
)
@pytest.mark.parametrize(
    "tasks", [TASKS, pytest.param(MORE, marks=pytest.mark.exhaustive)], ids=["three", "five"]
)
def test_an_unchanged_agent_solves_its_tasks_and_every_token_is_on_record(
    image: str, agent: dict[str, Any], dialect: str, branches: int, tasks: list[str]
) -> None:
    made = episodes(image, agent, tasks)
    ends = {one.task_id: (one.reward, one.error and one.error.message, one.details) for one in made}
    assert {task: end[0] for task, end in ends.items()} == dict.fromkeys(tasks, 1.0), ends
    for one in made:
        assert one.stop_reason == "agent_finished"
        assert {step.dialect for step in one.steps} == {dialect}
        assert {step.branch for step in one.steps} == set(range(branches))
        assert all(len(step.completion_token_ids or []) == 3 for step in one.steps)
        assert all(len(step.completion_logprobs or []) == 3 for step in one.steps)
        assert json.loads(one.details or "")["agent"]["status"] == 0


def test_an_agent_plays_in_an_image_that_knows_nothing_of_kumite() -> None:
    """The tool host comes in from outside; the image has Python, which the agent needs."""
    given = agent(
        "open(sys.argv[2], 'w').write(ask([user('go')])['content'])\nprint(os.path.exists('/opt/site'))",
        image=base_image(None, read_machine(), print),
    )
    toolset = load_environment(agent=given).toolset
    ensure_image(toolset, SandboxSettings())
    sandbox = with_image(toolset, SandboxSettings())
    with MockPolicy(default=Reply("10065")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, token_ids=True)
        args = {"tasks": ["find-effective-port"], "agent": given}
        with rollout_worker("shell", args=args, policy=endpoint, sandbox=sandbox.model_dump()) as worker:
            (result,) = played(worker, spec(rows(worker)[0]))
    assert (result.status, result.reward) == ("finished", 1.0), result.error_message
    assert sandbox.image == given["image"]
    assert json.loads(record(result).details or "")["agent"]["output"] == "False\n"
