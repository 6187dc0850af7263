"""Toolsets in containers of their own: called by the loop, and by a program in another container."""

import io
import tarfile

import docker
import pytest

from cluster.pool.images import ensure_image, with_image
from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Reply
from tests.helpers.v1_colocated_tasks import SERVER
from tests.helpers.v1_containers import TASKS, Containers
from workers.sandbox.base import ToolsetSpec
from workers.settings import SandboxSettings

pytestmark = [pytest.mark.slow, pytest.mark.docker]
TAG = "kumite-test-counting:1"


@pytest.fixture(scope="module")
def image():
    """An image that has the toolset's server."""
    spec = ToolsetSpec(image="harness", toolset="sandbox_images.machine.toolset:MachineToolset")
    ensure_image(spec, SandboxSettings())
    dockerfile = (
        f"FROM {with_image(spec, SandboxSettings()).image}\nCOPY counting_server.py /srv/\nUSER root\n"
        'RUN echo /srv > "$(echo /opt/harness/chat-mcp-1/lib/python3*/site-packages)/srv.pth"\n'
        "USER 65534:65534\n"
    )
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in (("Dockerfile", dockerfile), ("counting_server.py", SERVER)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    client = docker.from_env(timeout=600)
    client.images.build(fileobj=context, custom_context=True, tag=TAG, rm=True, network_mode="none")
    yield TAG
    client.images.remove(TAG, force=True)
    client.close()


def played(python, harness, run_id="r", **config):
    """The records of two episodes, one after the other."""
    bash = [("bash", {"command": "ls /srv/counting_server.py"})] if harness == "bash" else []
    script = in_turn(
        Reply(content=None, tool_calls=[("counting_count", {"by": 2}), ("counting_count", {"by": 4})]),
        Reply(content=None, tool_calls=[("counting_count", {"by": "x"}), *bash]),
        Reply(content=None, tool_calls=[("counting_die", {})]),
        Reply(content=None, tool_calls=[("counting_count", {"by": 1})]),
        Reply(),
    )
    args = {
        "agent": {"harness": {"id": harness}, "max_turns": 6},
        "taskset": {"task": config},
    }
    tasks = TASKS.with_name("v1_contained_tasks.py")
    with (
        ConversationPolicy(script) as policy,
        Containers(python, policy, harness, tasks=tasks, args=args, run_id=run_id) as boxes,
    ):
        return boxes.play_all()


@pytest.mark.parametrize(("harness", "by_task"), [("null", True), ("bash", False)])
def test_it_answers_and_shares_the_rollouts_state(python, image, harness, by_task):
    run = f"contained-{harness}"
    records = played(python, harness, run_id=run, image=image, by_task=by_task)
    assert docker.from_env().containers.list(all=True, filters={"label": f"kumite.run={run}"}) == []
    assert [record.error for record in records] == [None, None]
    assert [record.reward for record in records] == [6.0, 6.0], "each rollout has a state of its own"
    for record in records:
        first, second = record.steps[0].observations, record.steps[1].observations
        # What a program asks at once may come in another order.
        assert sorted(str(message.content).split()[0] for message in first) in (["2", "6"], ["4", "6"])
        assert all("of Count. sandbox" in str(message.content) for message in first)
        assert "int_parsing" in str(second[0].content)
        for step in record.steps[2:4]:  # a policy that has ended it has its score all the same
            assert "does not answer" in str(step.observations[0].content)
        if harness == "bash":
            assert "No such file" in str(second[1].content), "it is in another container"


def test_a_server_that_is_not_in_its_image_is_named_with_its_log(python):
    record = played(python, "null")[0]
    assert record.error is not None
    assert (record.error.stage, record.error.type) == ("setup", "ToolsetError")
    assert "has ended by itself, with status 1" in record.error.message
    assert "No module named counting_server" in record.error.message
