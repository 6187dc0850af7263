"""Prompts that are too long, in the words of each server; and refusals that are about something else."""

import json
from pathlib import Path

import pytest

from workers.policy.overlong_prompts import is_overlong

REFUSALS = json.loads(Path(__file__).with_name("prompt_refusals.json").read_text())
"""What servers say, with its status."""


@pytest.mark.parametrize(("status", "said"), REFUSALS["too_long"])
def test_prompt_that_is_too_long_is_known_by_the_words(status: int, said: str) -> None:
    assert is_overlong(status, said)
    assert is_overlong(status, json.dumps({"error": {"message": said, "code": status}}))


@pytest.mark.parametrize(("status", "said"), REFUSALS["something_else"])
def test_refusal_that_is_about_something_else_is_not_taken_for_it(status: int, said: str) -> None:
    assert not is_overlong(status, json.dumps({"error": {"message": said, "code": status}}), first_turn=True)


def test_limit_that_leaves_a_long_conversation_no_room_is_the_conversations() -> None:
    said = (
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is "
        "8192 tokens and your request has 4000 input tokens (5000 > 8192 - 4000)."
    )
    assert is_overlong(400, said)
    assert not is_overlong(400, said, first_turn=True), "no episode would come to a second turn"
