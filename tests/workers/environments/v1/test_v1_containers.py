"""Harnesses of verifiers' v1 API that are programs, and hooks that use the runtime: in containers."""

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import docker
import pytest

from sandbox_images import build
from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Reply
from tests.helpers.v1_containers import Containers, bash
from workers.lanes.interpreter import OwnPython
from workers.sandbox import ownership

pytestmark = [pytest.mark.slow, pytest.mark.docker]
TURNS = [bash("cat notes/hint.txt"), bash("echo tatami > out.txt"), Reply(content="It is tatami.")]


def choose(body):
    """Looks, writes, and says it; or sleeps, where the task is to be killed."""
    words = str(body["messages"])
    if "Play killed" in words:
        return bash("sleep 600")
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    return TURNS[min(turn, 2)]


@pytest.fixture(scope="module")
def boxes(python: OwnPython) -> Iterator[Containers]:
    run_id = f"test-{uuid.uuid4().hex[:8]}"
    with ConversationPolicy(choose) as policy, Containers(python, policy, "bash", run_id=run_id) as boxes:
        yield boxes


@pytest.fixture(scope="module")
def chats(python: OwnPython) -> Iterator[Containers]:
    with (
        ConversationPolicy(lambda body: Reply(content="tatami")) as policy,
        Containers(python, policy, "null") as boxes,
    ):
        yield boxes


def containers_of(run_id: str) -> set[str]:
    """Ids of a run's containers, running or not."""
    client = docker.from_env()
    try:
        found = client.api.containers(all=True, filters={"label": f"{ownership.RUN}={run_id}"})
        return {str(container["Id"])[:12] for container in found}
    finally:
        client.close()


def wait_until_gone(run_id: str, container: str) -> bool:
    deadline = time.monotonic() + 30
    while container in containers_of(run_id) and time.monotonic() < deadline:
        time.sleep(0.2)
    return container not in containers_of(run_id)


def test_bash_runs_in_a_container_and_its_calls_are_steps_with_their_tokens(boxes):
    record = boxes.play("plain")
    assert record.error is None
    assert (record.reward, record.stop_reason) == (1.5, "agent_completed")
    assert json.loads(record.metrics) == {"told": 1.0, "written": 1.0, "files": 2.0}
    roles = ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [message.role for message in record.messages] == roles
    assert "the word is tatami" in str(record.messages[3].content)
    assert [step.branch for step in record.steps] == [0, 0, 0]
    assert [step.completion_token_ids for step in record.steps] == [[7, 8]] * 3
    assert record.sandbox_id is not None
    assert wait_until_gone(record.run_id, record.sandbox_id)


def test_a_programs_python_collects_seldom_for_it_lives_for_one_episode(boxes):
    client = docker.from_env()
    try:
        said = client.containers.run(
            build.image_tag("harness"),
            ["-c", "import gc; print(gc.get_threshold())"],
            entrypoint="/opt/harness/chat-mcp-2/bin/python",
            network_mode="none",
            remove=True,
        )
    finally:
        client.close()
    assert said.decode().strip() == "(100000, 50, 1000)"


def test_the_runtime_keeps_what_its_contract_promises(boxes):
    record = boxes.play("contract")
    assert record.error is None
    held = {n: value for n, value in json.loads(record.metrics).items() if n.startswith("contract")}
    assert len(held) == 9
    assert [name for name, value in held.items() if value != 1.0] == []


def test_an_episode_that_is_broken_off_leaves_no_container(boxes):
    record = boxes.play("killed", seconds=20.0)
    assert record.error is not None
    assert record.error.type == "EpisodeTimeout"
    assert record.sandbox_id is not None
    assert wait_until_gone(record.run_id, record.sandbox_id)


def test_an_image_that_cannot_be_pulled_is_named(boxes):
    record = boxes.play("no image")
    assert record.error is not None
    assert (record.error.kind, record.error.type, record.error.stage) == (
        "sandbox",
        "SandboxStartError",
        "setup",
    )
    assert "no kumite.invalid/none:1, and it can't be pulled" in record.error.message


def test_hooks_of_a_plain_chat_use_a_container_of_the_tasks_own_image(chats):
    record = chats.play("image")
    assert record.error is None
    assert json.loads(record.metrics) == {"told": 1.0, "written": 0.0, "files": 1.0}
    assert record.reward == 1.0


def test_a_program_runs_in_a_tasks_own_image_that_has_none_of_its_packages(boxes):
    record = boxes.play("image")
    assert record.error is None
    assert record.reward == 1.5


def test_episodes_at_once_have_a_container_each(boxes):
    records = {}

    def play(mode):
        records[mode] = boxes.play(mode)

    threads = [threading.Thread(target=play, args=(mode,)) for mode in ("plain", "setup runs")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.reward for record in records.values()] == [1.5, 1.5]
    assert len({record.sandbox_id for record in records.values()}) == 2


def test_an_agent_works_as_the_user_that_its_task_names(python):
    if python.executable == sys.executable:
        pytest.skip("verifiers 0.3.1 has no `agent_user`")
    turns = in_turn(
        bash("id -un; echo $HOME; cat notes/hint.txt; echo tatami > out.txt"), Reply(content="tatami")
    )
    sandbox = {"user": "root", "root_mb": 256}
    with ConversationPolicy(turns) as policy, Containers(python, policy, "bash", sandbox) as boxes:
        record = boxes.play("user")
        assert record.error is None
        said = str(record.messages[3].content).split()
        assert said == ["irc", "/run/ircd", "the", "word", "is", "tatami"]
        assert record.reward == 1.5


def test_an_agent_cannot_be_another_user_where_the_session_is_an_ordinary_one(python, boxes):
    if python.executable == sys.executable:
        pytest.skip("verifiers 0.3.1 has no `agent_user`")
    record = boxes.play("user")
    assert record.error is not None
    assert record.error.stage == "setup"
    assert "agent_user 'irc'" in record.error.message
