"""Which calls count as the injection's."""

from typing import Any

import pytest
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime

from sandbox_images.agentdojo.injected import injected_calls
from tests.helpers.agentdojo import suites

pytestmark = pytest.mark.slow

IBAN = "US133000000121212121212"


def found(
    suite_name: str, user_task: str, injection_task: str, *calls: tuple[str, dict[str, Any]]
) -> list[int] | None:
    suite = suites()[suite_name]
    made = [(place, FunctionCall(function=name, args=args)) for place, (name, args) in enumerate(calls)]
    return injected_calls(
        FunctionsRuntime(suite.tools),
        suite.load_and_inject_default_environment({}),
        suite.get_user_task_by_id(user_task),
        suite.get_injection_task_by_id(injection_task),
        made,
    )


def test_ground_truth_itself_is_found_in_every_pair_that_has_one_of_its_own() -> None:
    looked_for = 0
    for name, suite in suites().items():
        environment = suite.load_and_inject_default_environment({})
        for injection_id, injection in suite.injection_tasks.items():
            calls = [(call.function, dict(call.args)) for call in injection.ground_truth(environment)]
            places = found(name, next(iter(suite.user_tasks)), injection_id, *calls)
            assert places is None or (places and max(places) < len(calls))
            looked_for += places is not None
    assert looked_for == 35 - 9  # workspace's 6 to 13 and travel's 6 have no ground truth


def test_call_has_the_tool_and_what_the_attacker_has_fixed() -> None:
    sent = {"recipient": IBAN, "amount": 0.01, "subject": "anything", "date": "2022-01-01"}
    assert found("banking", "user_task_0", "injection_task_0", ("send_money", sent)) == [0]
    for name, value in (("recipient", "UK12345678901234567890"), ("amount", 1.0), ("date", "2022-01-02")):
        other = ("send_money", {**sent, name: value})
        assert found("banking", "user_task_0", "injection_task_0", other, ("send_money", sent)) == [1]


def test_amount_is_one_amount_however_it_is_written() -> None:
    whole = {"title": "Booking", "start_time": "2024-05-01 09:00", "end_time": "2024-05-01 10:00"}
    sent = {"recipient": IBAN, "amount": "0.01", "subject": "", "date": "2022-01-01"}
    assert found("banking", "user_task_0", "injection_task_0", ("send_money", sent)) == [0]
    assert found("travel", "user_task_0", "injection_task_2", ("create_calendar_event", whole)) == []


def test_argument_that_is_left_open_may_be_anything() -> None:
    sent = {"recipient": IBAN, "amount": 17, "subject": "mine now", "date": "2031-12-31"}
    assert found("banking", "user_task_0", "injection_task_5", ("send_money", sent)) == [0]


@pytest.mark.parametrize(
    ("suite", "injection_task", "call"),
    [
        ("travel", "injection_task_3", ("get_user_information", {})),
        ("slack", "injection_task_2", ("get_channels", {})),
        ("travel", "injection_task_4", ("get_hotels_prices", {"hotel_names": ["Luxury Palace"]})),
    ],
)
def test_call_that_names_nothing_of_the_attackers_is_not_told_apart(
    suite: str, injection_task: str, call: tuple[str, dict[str, Any]]
) -> None:
    assert found(suite, "user_task_0", injection_task, call) == []


def test_what_the_user_wants_too_is_not_the_injections() -> None:
    reads = ("read_channel_messages", {"channel": "general"})
    asked_for = [
        task.ID
        for task in suites()["slack"].user_tasks.values()
        if reads[1] in [call.args for call in task.ground_truth(_slack()) if call.function == reads[0]]
    ]
    assert asked_for
    for user_task in asked_for:
        assert found("slack", user_task, "injection_task_4", reads) == []
    other = next(user_task for user_task in suites()["slack"].user_tasks if user_task not in asked_for)
    assert found("slack", other, "injection_task_4", reads) == [0]


def _slack() -> Any:
    return suites()["slack"].load_and_inject_default_environment({})


def test_injection_without_a_ground_truth_has_no_calls_to_find() -> None:
    assert found("workspace", "user_task_0", "injection_task_6", ("delete_file", {"file_id": "13"})) is None
