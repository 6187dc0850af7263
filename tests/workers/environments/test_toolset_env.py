"""The base class for environments whose tools are a toolset's."""

import datetime
from typing import Any

import pytest

from workers.environments.toolset_env import ToolsetEnv
from workers.records import info_of


def rows_of(*setups: Any) -> list[dict[str, Any]]:
    prompt = [{"role": "user", "content": "go"}]
    return [{"prompt": prompt, "info": {"task_id": str(n), "setup": each}} for n, each in enumerate(setups)]


def played(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What sessions are opened with."""
    env = ToolsetEnv("mine:Toolset", rows, {"solved": 1.0})
    return [info_of(dict(row)) for row in env.get_eval_dataset()]  # type: ignore[arg-type]


def test_each_task_is_set_up_with_what_its_row_has_and_nothing_of_the_others() -> None:
    rows = rows_of({"notes": {"plumber": "1"}}, {"notes": {"dentist": 2}, "more": [None, {"a": None}]}, {})
    assert played(rows) == [row["info"] for row in rows]


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 2), b"bytes"])
def test_what_is_no_json_is_held_as_arrow_holds_it(value: Any) -> None:
    assert played(rows_of({"value": value}))[0]["setup"] == {"value": value}
