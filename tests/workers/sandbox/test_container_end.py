"""What an engine's events say of the end of a container: who is told to have done it."""

from typing import Any

import pytest

from workers.errors import EndCause
from workers.sandbox import container_end


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"Attributes": attributes}}


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([], None),
        ([event("start"), event("oom")], None),
        ([event("oom"), event("die", exitCode="137")], "memory"),
        ([event("die", exitCode="137"), event("oom")], "memory"),
        ([event("oom"), event("kill", signal="9"), event("die", exitCode="137")], "engine"),
        ([event("kill", signal="9"), event("die", exitCode="137")], "engine"),
        ([event("die", exitCode="137")], None),
        ([event("die", exitCode="1")], "tool_host"),
        ([event("oom"), event("die", exitCode="1")], "tool_host"),
        ([event("die", exitCode="139")], "tool_host"),
        ([event("die", exitCode="0")], "engine"),
    ],
)
def test_cause_is_told_by_the_events(events: list[dict[str, Any]], cause: EndCause | None) -> None:
    assert container_end._judge(events) == cause
