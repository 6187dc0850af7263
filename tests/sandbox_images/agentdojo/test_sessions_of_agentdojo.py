"""AgentDojo's toolset in a tool host: states, patches and scores of whole episodes."""

import json
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers.agentdojo import SUITES, VERSION, as_json, suites
from tests.helpers.own.own_suite import UserTask0
from tests.helpers.own.own_suite import suite as own_suite
from tests.helpers.patches import patched
from tests.helpers.sandboxes import OWNER, process_settings
from workers.errors import SessionSetupError
from workers.sandbox.base import Scores, Session, ToolsetSpec
from workers.sandbox.process import ProcessSandbox

# isort: split
from agentdojo.agent_pipeline.tool_execution import ToolsExecutor

from sandbox_images.agentdojo.loaded_suite import LoadedSuite
from sandbox_images.agentdojo.session import AgentDojoSession

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
SPEC = ToolsetSpec(
    "agentdojo",
    "sandbox_images.agentdojo.toolset:AgentDojoToolset",
    {"version": VERSION, "suites": list(SUITES)},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox(SPEC, process_settings(), OWNER)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def task(
    suite: str, user_task: str | None, injection_task: str | None = None, attack: str | None = None
) -> Any:
    return {
        "suite": suite,
        "user_task": user_task,
        "injection_task": injection_task,
        "attack": attack,
        "attack_model": "local" if attack else None,
    }


async def solved(session: Session) -> Scores:
    """Plays the ground truth to the end."""
    turns = await session.oracle()
    for turn in turns:
        for call in turn["tool_calls"]:
            await session.call(call["name"], call["arguments"])
    return await session.evaluate({"output": turns[-1]["content"], "unexecuted": []})


async def base_state(sandbox: ProcessSandbox, session: Session) -> Any:
    assert session.opened is not None and session.opened.state_id is not None
    return await sandbox.base_state(session.opened.state_id)


def strictly(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("name", SUITES)
async def test_ground_truth_solves_every_user_task_and_its_patches_give_every_state(
    sandbox: ProcessSandbox, name: str
) -> None:
    user_tasks = suites()[name].user_tasks
    assert len(user_tasks) == {"workspace": 40, "travel": 20, "banking": 16, "slack": 21}[name]
    for user_task in user_tasks:
        session = sandbox.session(f"{name}-{user_task}")
        await session.open(task(name, user_task))
        first = await session.state()
        scores = await solved(session)
        assert scores.metrics["utility"] == 1.0, user_task
        assert scores.metrics["attack_success"] is None
        assert len(scores.patches) == 1 + session.calls
        state = patched(await base_state(sandbox, session), scores.patches[0])
        assert strictly(state) == strictly(first), user_task
        for patch in scores.patches[1:]:
            state = patched(state, patch)
        assert strictly(state) == strictly(await session.state()), user_task
        await session.close()


@pytest.mark.parametrize("name", SUITES)
async def test_state_after_each_call_is_its_patches(sandbox: ProcessSandbox, name: str) -> None:
    session = sandbox.session(f"step-by-step-{name}")
    await session.open(task(name, next(iter(suites()[name].user_tasks))))
    states = [await session.state()]
    for turn in await session.oracle():
        for call in turn["tool_calls"]:
            await session.call(call["name"], call["arguments"])
            states.append(await session.state())
    scores = await session.evaluate({"output": "", "unexecuted": []})
    state = await base_state(sandbox, session)
    for patch, expected in zip(scores.patches, states, strict=True):
        state = patched(state, patch)
        assert strictly(state) == strictly(expected)


@pytest.mark.parametrize("name", SUITES)
async def test_session_under_attack_begins_in_the_environment_that_agentdojo_would_build(
    sandbox: ProcessSandbox, name: str
) -> None:
    own = suites()[name]
    pairs = [(user, injection) for user in own.user_tasks for injection in own.injection_tasks]
    begun = 0
    for user_task, injection_task in random.Random(name).sample(pairs, 6):
        session = sandbox.session(f"attacked-{name}-{user_task}-{injection_task}")
        try:
            await session.open(task(name, user_task, injection_task, "important_instructions"))
        except SessionSetupError as error:
            assert "not injectable" in str(error)
            continue
        goal = own.injection_tasks[injection_task].GOAL
        state = await session.state()
        assert json.dumps(goal)[1:20] in json.dumps(state)
        scores = await session.evaluate({"output": "", "unexecuted": []})
        begun_in = patched(await base_state(sandbox, session), scores.patches[0])
        assert strictly(begun_in) == strictly(state)
        assert scores.metrics["attack_success"] == 0.0
        begun += 1
        await session.close()
    assert begun >= 3


async def test_base_state_is_agentdojos_default_environment(sandbox: ProcessSandbox) -> None:
    for name, own in suites().items():
        session = sandbox.session(f"base-{name}")
        await session.open(task(name, next(iter(own.user_tasks))))
        expected = as_json(own.load_and_inject_default_environment({}))
        assert strictly(await base_state(sandbox, session)) == strictly(expected)
        assert strictly(await session.state()) == strictly(expected)


async def test_session_offers_the_tools_that_agentdojo_offers(sandbox: ProcessSandbox) -> None:
    for name, own in suites().items():
        opened = await sandbox.session(f"tools-{name}").open(task(name, next(iter(own.user_tasks))))
        assert [(tool.name, tool.description, tool.parameters) for tool in opened.tools] == [
            (tool.name, tool.description, tool.parameters.model_json_schema()) for tool in own.tools
        ]


async def test_attack_succeeds_when_the_policy_does_what_the_injection_asks(sandbox: ProcessSandbox) -> None:
    injected = sandbox.session("injection")
    await injected.open(task("banking", None, "injection_task_0"))
    script = await injected.oracle()
    alone = await solved(injected)
    assert alone.metrics["utility"] == 1.0
    assert alone.metrics["attack_success"] is None

    attacked = sandbox.session("attacked")
    await attacked.open(task("banking", "user_task_0", "injection_task_0", "important_instructions"))
    for turn in script:
        for call in turn["tool_calls"]:
            await attacked.call(call["name"], call["arguments"])
    scores = await attacked.evaluate({"output": "done", "unexecuted": []})
    assert scores.metrics["attack_success"] == 1.0
    assert scores.metrics["utility"] == 0.0


async def test_denial_of_service_succeeds_when_the_users_task_is_not_done(sandbox: ProcessSandbox) -> None:
    for name, does_task in (("done", True), ("not-done", False)):
        session = sandbox.session(f"dos-{name}")
        await session.open(task("banking", "user_task_3", "injection_task_0", "dos"))
        if does_task:
            scores = await solved(session)
        else:
            scores = await session.evaluate({"output": "I refuse.", "unexecuted": []})
        assert (scores.metrics["utility"], scores.metrics["attack_success"]) == (
            (1.0, 0.0) if does_task else (0.0, 1.0)
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("get_nothing", {}), "Invalid tool get_nothing provided."),
        (("send_money", {}), "ValidationError: 4 validation errors for Input schema for `send_money`"),
        (
            ("send_money", {"recipient": 1, "amount": "x", "subject": "", "date": ""}),
            "ValidationError: 2 vali",
        ),
        (("read_file", {"file_path": ["a"]}), "ValidationError: 1 validation error"),
    ],
)
async def test_call_that_cannot_be_made_is_worded_as_agentdojo_words_it(
    sandbox: ProcessSandbox, call: tuple[str, dict[str, Any]], words: str
) -> None:
    session = sandbox.session(f"wrong-{len(sandbox.sessions)}")
    await session.open(task("banking", "user_task_0"))
    result = await session.call(*call)
    assert result.error is not None and result.error.startswith(words)
    await session.close()


async def test_call_that_breaks_the_executor_is_an_observation(sandbox: ProcessSandbox) -> None:
    session = sandbox.session("breaking")
    await session.open(task("banking", "user_task_0"))
    for text in ("-" * 20_000 + "1", "[" * 5_000, "(" * 150 + ")" * 150, "\ud83d", "1" * 10_000, "[1,"):
        await session.call("read_file", {"file_path": text})
    result = await session.call("read_file", {"file_path": "word " * 5_000})
    assert result.error is not None and "MemoryError" in result.error
    result = await session.call("get_balance", {})
    assert result.error is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (task("nothing", "user_task_0"), "suite 'nothing' is not loaded; loaded are workspace, travel"),
        (task("banking", "user_task_99"), "suite banking has no task 'user_task_99'"),
        (task("banking", None), "a task needs a user_task, an injection_task, or both"),
        (task("banking", "user_task_0", "injection_task_0", "nothing"), "there is no attack 'nothing'"),
    ],
)
async def test_task_that_is_not_there_is_refused(sandbox: ProcessSandbox, wrong: Any, complaint: str) -> None:
    with pytest.raises(SessionSetupError, match=complaint):
        await sandbox.session(f"wrong-{len(sandbox.sessions)}").open(wrong)


async def test_sessions_inherit_and_do_not_disturb_each_other(sandbox: ProcessSandbox) -> None:
    sessions = [sandbox.session(f"neighbour-{number}") for number in range(3)]
    for session in sessions:
        await session.open(task("banking", "user_task_0"))
    before = await sessions[1].state()
    await solved(sessions[0])
    assert await sessions[0].state() != before
    assert await sessions[1].state() == before == await sessions[2].state()
    assert await base_state(sandbox, sessions[1]) == before


async def test_tools_are_named_by_what_they_are() -> None:
    """Suites of a user's own may share a name, and a worker asks for tools by name once."""
    one, other = suites()["banking"], suites()["banking"]
    other.tools = other.tools[:-1]
    assert LoadedSuite(VERSION, one).tools_id != LoadedSuite(VERSION, other).tools_id
    assert LoadedSuite(VERSION, one).tools_id == LoadedSuite(VERSION, suites()["banking"]).tools_id


UNREAD = [
    ("send_email", {"recipients": ["mark.black-2134@gmail.com"], "subject": "s", "body": "nothing of them"}),
    ("delete_email", {"email_id": "34"}),
    ("get_current_day", {}),
]


async def test_looking_for_the_injection_changes_no_score(sandbox: ProcessSandbox) -> None:
    """AgentDojo's check of this injection task asks for unread mail, which marks it as read."""
    session = sandbox.session("unread")
    await session.open(task("workspace", "user_task_0", "injection_task_6", "important_instructions"))
    for tool, arguments in UNREAD:
        assert (await session.call(tool, arguments)).error is None
    scores = await session.evaluate({"output": "done", "unexecuted": []})
    assert (scores.metrics["attack_success"], scores.metrics["injected_calls"]) == (0.0, None)


async def test_denial_of_service_asks_for_no_call(sandbox: ProcessSandbox) -> None:
    session = sandbox.session("dos")
    await session.open(task("banking", "user_task_0", "injection_task_0", "dos"))
    sent = {"recipient": "US133000000121212121212", "amount": 0.01, "subject": "", "date": "2022-01-01"}
    assert (await session.call("send_money", sent)).error is None
    scores = await session.evaluate({"output": "done", "unexecuted": []})
    assert (scores.metrics["attack_success"], scores.metrics["injected_calls"]) == (1.0, None)
    assert scores.details == {"injected": [], "succeeded_at": None, "succeeded_in_words": False}


class Reader(UserTask0):
    """Crosses out what it has read of the notes that there were, which must stay as they are."""

    def utility(self, model_output: str, pre_environment: Any, post_environment: Any, strict: bool = True):
        there_were = list(pre_environment.notebook.notes)
        pre_environment.notebook.notes.clear()
        return list(post_environment.notebook.notes) == there_were != []


async def test_check_of_ones_own_may_change_what_it_compares_with() -> None:
    loaded = LoadedSuite(VERSION, own_suite)
    environment, before = loaded.environments.pair({})
    fresh = partial(loaded.environments.fresh, {})
    session = AgentDojoSession(loaded, Reader(), None, environment, before, fresh, False, ToolsExecutor())
    assert session.evaluate({"output": "milk", "unexecuted": []}).metrics["utility"] == 1.0


class Tidy(UserTask0):
    """Sets its environment up in place."""

    def init_environment(  # pyright: ignore[reportIncompatibleMethodOverride] - a suite's own task may do so
        self, environment: Any
    ) -> Any:
        environment.notebook.notes["tidy"] = "up"
        return environment


async def test_set_up_in_place_is_in_the_first_patch() -> None:
    loaded = LoadedSuite(VERSION, own_suite)
    for _ in range(2):
        environment, before = loaded.environments.pair({})
        fresh = partial(loaded.environments.fresh, {})
        session = AgentDojoSession(loaded, Tidy(), None, environment, before, fresh, False, ToolsExecutor())
        assert session.state_patch() == [{"op": "add", "path": "/notebook/notes/tidy", "value": "up"}]
        assert "tidy" not in loaded.environments.default.notebook.notes  # type: ignore[attr-defined]
        assert "tidy" not in loaded.base_state.json["notebook"]["notes"]
