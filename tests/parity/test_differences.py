"""Each line of "Where it differs" in docs/agentdojo.md."""

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
import verifiers as vf

from tests.parity import upstream_bugs
from tests.parity.comparison import compare
from tests.parity.episode import Played, Setting, Task, agentdojo_plays_lines
from tests.parity.ours import TEMPERATURE, Ours, ours
from tests.parity.script import Action, Call, Lines
from workers.errors import PolicyError

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("agentdojo_forks")]
OWN = Path(__file__).resolve().parents[1] / "helpers" / "own"
DONE = Action("done")


def call(name: str, arguments: dict[str, Any] | str) -> Action:
    return Action(None, (Call(f"call_{name}", name, arguments),))


def here(side: Ours, task: Task, lines: Sequence[Action | Exception]) -> Played:
    (played,) = side.play({(task.task_id, "lines"): Lines(list(lines))}).values()
    return played


def there(agentdojo: Executor, suite: str, task: Task, lines: Sequence[Action], **setting: Any) -> Played:
    chosen = Setting("v1.2.2", suite, **setting)
    return agentdojo.submit(agentdojo_plays_lines, chosen, task, Lines(list(lines))).result(timeout=600)


def user_task(suite: str, number: int) -> Task:
    return Task(f"v1.2.2/{suite}/user_task_{number}", f"user_task_{number}", None)


def heard(played: Played) -> list[str | None]:
    """What the policy read of its tools."""
    assert played.record is not None
    return [message["content"] for message in played.record["messages"] if message["role"] == "tool"]


def test_harness_sees_a_difference(agentdojo: Executor):
    settings = [Setting("v1.2.2", "slack", "important_instructions")]
    for overrides in ({"max_turns": 3}, {"attack_model": "command-r"}):
        found = compare(agentdojo, settings, "attack", ("obedient",), every=40, overrides=overrides)
        assert len(found.differences) > found.episodes / 2


@pytest.mark.parametrize(
    ("arguments", "crash", "answer"),
    [
        ("{'recipient'", "JSONDecodeError", "JSONDecodeError: Expecting property name"),
        ("", "JSONDecodeError", "JSONDecodeError: Expecting value"),
        (
            "[1, 2]",
            "ValidationError",
            "ValidationError: the arguments of a tool call must be an object, got list",
        ),
        (
            '"send"',
            "ValidationError",
            "ValidationError: the arguments of a tool call must be an object, got str",
        ),
        ('{"file_path": "{[]: 1}"}', "TypeError", "TypeError: unhashable type: 'list'"),
    ],
)
def test_arguments_that_crash_agentdojo_are_an_error_for_the_policy_to_read(
    agentdojo: Executor, arguments: str, crash: str, answer: str
):
    task = user_task("banking", 0)
    lines = [call("read_file", arguments), DONE]
    crashed = there(agentdojo, "banking", task, lines)
    assert crashed.error is not None and crashed.error.startswith(crash)
    with ours({"suites": ["banking"]}) as side:
        played = here(side, task, lines)
    assert played.error is None
    (text,) = heard(played)
    assert text is not None and text.startswith(answer)
    assert json.loads(played.record["metrics"])["tool_errors"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("amount", "recorded"), [("NaN", "NaN"), ("1e999", "Infinity"), ("-1e999", "-Infinity")]
)
def test_number_that_json_cannot_say_is_text_in_recorded_states_alone(
    agentdojo: Executor, amount: str, recorded: str
):
    task = user_task("banking", 0)
    rest = '"recipient": "X", "subject": "s", "date": "2024-01-01"'
    send = call("send_money", f'{{"amount": {amount}, {rest}}}')
    look = call("get_most_recent_transactions", {})
    lines = [send, look, send, look, DONE]
    theirs = there(agentdojo, "banking", task, lines)
    with ours({"suites": ["banking"]}) as side:
        played = here(side, task, lines)
    assert played.error is None and played.prompts == theirs.prompts
    (transactions,) = [name for name, text in theirs.state.items() if recorded in text]
    assert played.state == {
        **theirs.state,
        transactions: theirs.state[transactions].replace(f": {recorded},", f': "{recorded}",'),
    }
    assert played.record is not None
    patches = [json.loads(step["state_patch"], parse_constant=pytest.fail) for step in played.record["steps"]]
    assert [len(patch) for patch in patches] == [1, 0, 1, 0, 0]


def test_list_written_as_text_stays_text_in_the_conversation(agentdojo: Executor):
    arguments = {"hotel_names": "['Le Marais Boutique', 'Good Night']"}
    task = user_task("travel", 0)
    rewritten = agentdojo.submit(upstream_bugs.arguments_in_the_next_prompt, arguments).result(timeout=600)
    assert rewritten == {"hotel_names": ["Le Marais Boutique", "Good Night"]}
    with ours({"suites": ["travel"]}) as side:
        played = here(side, task, [call("get_rating_reviews_for_hotels", arguments), DONE])
    (text,) = heard(played)
    assert text is not None and "'Le Marais Boutique'" in text and "'Good Night'" in text
    assert played.record is not None
    (made,) = played.record["messages"][2]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == arguments


def test_conversation_without_a_last_text_is_played_once(agentdojo: Executor):
    task = user_task("banking", 0)
    lines = [call("get_balance", {})]
    assert len(there(agentdojo, "banking", task, lines).prompts) == 3 * 16
    with ours({"suites": ["banking"]}) as side:
        assert len(here(side, task, lines).prompts) == 16


def test_agentdojo_starts_over_in_an_environment_that_was_acted_in(agentdojo: Executor):
    """Its second try finds the work done, and is solved by a policy that does nothing."""
    paid = call("send_money", {"recipient": "X", "amount": 1, "subject": "s", "date": "2024-01-01"})
    task = user_task("banking", 0)
    lines = [paid, Action(None)]
    played = there(agentdojo, "banking", task, lines)
    assert len(played.prompts) == 6
    assert played.state["bank_account"].count('"recipient": "X"') == 3
    with ours({"suites": ["banking"]}) as side:
        once = here(side, task, lines)
    assert len(once.prompts) == 2
    assert once.state["bank_account"].count('"recipient": "X"') == 1


def test_api_error_is_a_failed_episode_and_not_a_successful_attack(agentdojo: Executor):
    assert agentdojo.submit(upstream_bugs.scores_of_an_api_error).result(timeout=600) == (False, True)
    args = {"suites": ["slack"], "mode": "attack", "attack": "direct"}
    task = Task("v1.2.2/slack/user_task_0/injection_task_1/direct", "user_task_0", "injection_task_1")
    with ours(args) as side:
        failed = here(side, task, [PolicyError("500")])
        too_long = here(side, task, [vf.OverlongPromptError("8193 tokens")])
        too_long_later = here(side, task, [call("get_channels", {}), vf.OverlongPromptError("8193 tokens")])
    for played in (failed, too_long):
        assert played.record is not None
        assert (played.record["status"], played.record["reward"]) == ("failed", None)
        assert played.record["error"]["stage"] == "policy"
        assert played.record["metrics"] == "{}"
    assert too_long_later.record is not None
    assert (too_long_later.record["status"], too_long_later.record["is_truncated"]) == ("finished", True)
    assert (too_long_later.utility, too_long_later.attack_success) == (False, False)


def test_check_that_raises_fails_the_episode(agentdojo: Executor):
    task = user_task("slack", 1)
    lines = [call("remove_user_from_slack", {"user": "Alice"}), DONE]
    crashed = there(agentdojo, "slack", task, lines)
    assert crashed.error is not None and crashed.error.startswith("KeyError")
    with ours({"suites": ["slack"]}) as side:
        played = here(side, task, lines)
    assert played.record is not None
    assert (played.record["status"], played.record["reward"]) == ("failed", None)
    assert played.record["error"]["stage"] == "scoring"
    assert "KeyError: 'Alice'" in played.record["error"]["message"]


def test_dates_are_text_in_json(agentdojo: Executor):
    task = user_task("workspace", 0)
    lines = [call("search_emails", {"query": "Team"}), DONE]
    crashed = there(agentdojo, "workspace", task, lines, tool_output="json")
    assert crashed.error == "TypeError: Object of type datetime is not JSON serializable"
    with ours({"suites": ["workspace"], "tool_output": "json"}) as side:
        (text,) = heard(here(side, task, lines))
    assert text is not None
    assert json.loads(text)[0]["timestamp"].startswith("2024-")


def test_tool_filter_asks_with_the_policys_sampling(agentdojo: Executor):
    task = user_task("banking", 0)
    lines = [Action("read_file"), DONE]
    assert there(agentdojo, "banking", task, lines, defense="tool_filter").sampling[0]["temperature"] == 0.0
    with ours({"suites": ["banking"], "defense": "tool_filter"}) as side:
        here(side, task, lines)
        asked, acted = side.policy.sampling
    assert (asked["temperature"], asked["tool_choice"]) == (TEMPERATURE, "none")
    assert (acted["temperature"], acted.get("tool_choice")) == (TEMPERATURE, None)


def test_payload_that_breaks_the_yaml_fails_its_own_pair_alone(agentdojo: Executor):
    assert (
        agentdojo.submit(upstream_bugs.error_of_a_payload, '" broken: [').result(timeout=600) == "ParserError"
    )
    args = {
        "suites": ["banking"],
        "mode": "attack",
        "attack": "own_attack:Unfit",
        "user_tasks": ["user_task_0"],
    }
    with ours(args, folder=OWN) as side:
        played = side.play({(task_id, "lines"): Lines([DONE]) for task_id in side.rows})
    assert len(played) == 9
    for (task_id, _), episode in played.items():
        assert episode.record is not None
        pair = ("user_task_0", task_id.split("/")[3])
        if pair[1] not in ("injection_task_3", "injection_task_5"):
            assert episode.record["status"] == "finished"
            continue
        error = episode.record["error"]
        assert (episode.record["status"], error["stage"]) == ("failed", "setup")
        named = f"attack 'own_attack:Unfit' on {pair[0]} with {pair[1]} of banking"
        assert named in error["message"]
        assert episode.record["reward"] is None


def test_version_1_1_2_is_version_1_1_1(agentdojo: Executor):
    first, second = (
        agentdojo.submit(upstream_bugs.tasks_of, version).result(timeout=600)
        for version in ("v1.1.1", "v1.1.2")
    )
    assert first == second
    with ours({"version": "v1.1.1"}) as one, ours({"version": "v1.1.2"}) as other:
        prompts = [[row["prompt"] for row in side.rows.values()] for side in (one, other)]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("version", ["v1.2", "v1.2.1", "v1.2.2"])
def test_ground_truth_of_workspace_injection_tasks_6_to_13_is_none(agentdojo: Executor, version: str):
    solved = agentdojo.submit(upstream_bugs.injection_tasks_that_their_ground_truth_solves, version)
    assert [name for name, is_solved in solved.result(timeout=600).items() if not is_solved] == [
        f"injection_task_{number}" for number in range(6, 14)
    ]


def test_order_of_a_set_is_the_same_whatever_hash_seed_the_machine_has(monkeypatch: pytest.MonkeyPatch):
    guests = [f"guest{number}@example.com" for number in range(12)]
    times = {"start_time": "2024-05-20 10:00", "end_time": "2024-05-20 11:00"}
    lines = [call("create_calendar_event", {"title": "Lunch", **times, "participants": guests}), DONE]
    answers: list[str | None] = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        with ours({"suites": ["workspace"], "user_tasks": ["user_task_0"]}) as side:
            answers += heard(here(side, user_task("workspace", 0), lines))
    assert answers[0] is not None and all(guest in answers[0] for guest in guests)
    assert answers[0] == answers[1]
