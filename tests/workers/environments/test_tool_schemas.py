"""Nulls in tools: those that Arrow has put there go, those that are meant stay."""

from typing import Any

import pytest
from datasets import Dataset
from verifiers.legacy.types import Tool

from workers.environments.tool_schemas import comes_from_arrow, drop_arrow_nulls, tool_fields


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": name, "parameters": parameters}


def test_each_tool_of_a_row_has_its_own_parameters_only() -> None:
    rows = [
        {"info": {"tool_defs": [tool("weather", city={"type": "string", "enum": ["a", None]})]}},
        {"info": {"tool_defs": [tool("add", a={"type": "integer", "minimum": 0, "default": 3})]}},
    ]
    for row, given in zip(Dataset.from_list(rows), rows, strict=True):
        [held] = row["info"]["tool_defs"]  # type: ignore[index]
        assert held != given["info"]["tool_defs"][0], "Arrow fills it up"
        made = tool_fields(Tool.model_validate(held), from_arrow=True)
        assert made == given["info"]["tool_defs"][0]


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        {"type": ["string", "null"], "default": None},
        {"enum": ["a", None], "default": None},
        {"const": None},
        {"properties": {"default": {"type": "string"}, "const": {"type": "null"}}},
        {"type": "object", "default": {"a": None}},
    ],
)
def test_null_that_is_meant_stays(schema: dict[str, Any]) -> None:
    assert drop_arrow_nulls(schema) == schema


def test_tools_that_no_row_has_held_stay_as_they_are() -> None:
    parameters: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    made = tool_fields(Tool(name="a", description="", parameters=parameters), from_arrow=False)
    assert made["parameters"] == parameters
    assert not comes_from_arrow({"info": {"task_id": 1}}, row_is_arrow=True)
    assert not comes_from_arrow({"info": {"tool_defs": []}}, row_is_arrow=False), "the row held JSON text"
