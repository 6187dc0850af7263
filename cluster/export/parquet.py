"""Parquet files for TRL and for verl."""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.dataset.arrow import Schema, Table, pa, pq
from cluster.dataset.durable import replacing
from cluster.dataset.sequences import Sequence
from cluster.export.conversations import Conversation, parse_arguments, to_openai_message, to_openai_tools
from cluster.export.selection import Preference
from workers.records import Message

_BATCH = 256
_CALL = pa.struct(
    [
        pa.field("id", pa.string()),
        pa.field("type", pa.string()),
        pa.field("function", pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string())])),
    ]
)
_MESSAGE = pa.struct(
    [
        pa.field("role", pa.string()),
        pa.field("content", pa.string()),
        pa.field("reasoning_content", pa.string()),
        pa.field("tool_calls", pa.list_(_CALL)),
        pa.field("tool_call_id", pa.string()),
    ]
)
_MESSAGES = pa.list_(_MESSAGE)


def trl_rows(conversations: Iterable[Conversation]) -> Iterator[dict[str, Any]]:
    """Rows of TRL's conversational language-modelling format, with tools."""
    for conversation in conversations:
        yield {"messages": _to_rows(conversation.messages), "tools": _tools_or_none(conversation.tools)}


def trl_preference_rows(pairs: Iterable[Preference]) -> Iterator[dict[str, Any]]:
    """Rows of TRL's conversational preference format, with tools."""
    for pair in pairs:
        parts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        yield {name: _to_rows(part) for name, part in parts.items()} | {"tools": _tools_or_none(pair.tools)}


def write_trl(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> int:
    """Writes a file that `datasets` loads with arguments and tools as data, as TRL wants them.

    Args:
        path: The file.
        rows: Its rows.
        columns: Those of them that hold messages; `tools` is one more.

    Returns:
        The number of rows.
    """
    datasets: Any = importlib.import_module("datasets")  # seconds
    text, data, several = datasets.Value("string"), datasets.Json(), datasets.List
    call = {"id": text, "type": text, "function": {"name": text, "arguments": data}}
    texts = {name: text for name in ("role", "content", "reasoning_content", "tool_call_id")}
    messages = several({**texts, "tool_calls": several(call)})
    features = datasets.Features({**{name: messages for name in columns}, "tools": data})

    def to_table(batch: list[Mapping[str, Any]]) -> Table:
        return datasets.Dataset.from_list(batch, features=features).data.table.cast(features.arrow_schema)

    return _write(path, rows, features.arrow_schema, to_table)


def write_trl_tokens(path: Path, sequences: Iterable[Sequence]) -> int:
    """Writes exact token ids for TRL's SFTTrainer, which learns where `assistant_masks` is 1."""
    schema = pa.schema(
        [
            pa.field("input_ids", pa.list_(pa.int64())),
            pa.field("assistant_masks", pa.list_(pa.int64())),
            pa.field("episode_id", pa.string()),
            pa.field("reward", pa.float64()),
        ]
    )
    rows = (
        {
            "input_ids": sequence.input_ids,
            "assistant_masks": sequence.loss_mask,
            "episode_id": sequence.episode_id,
            "reward": sequence.reward,
        }
        for sequence in sequences
    )
    return _write(path, rows, schema)


def write_verl(path: Path, conversations: Iterable[Conversation]) -> tuple[int, bool]:
    """Writes a file for verl's `MultiTurnSFTDataset`.

    verl takes a row's tools as nested columns, in which Arrow gives each tool the parameters of all tools, as
    nulls, and a chat template would print them. Where that is so, the tools go into the column `tools_json`,
    which verl does not read.

    Returns:
        The number of rows, and whether the tools are where verl finds them.
    """
    rows: list[dict[str, Any]] = [
        {"messages": _to_rows(each.messages, filled=True), "tools": to_openai_tools(each.tools)}
        for each in conversations
    ]
    tools = pa.array([row["tools"] for row in rows]) if _is_nestable(rows) else None
    exact = tools is not None and tools.to_pylist() == [row["tools"] for row in rows]
    if exact and tools is not None and any(row["tools"] for row in rows):
        schema = pa.schema([pa.field("messages", _MESSAGES), pa.field("tools", tools.type)])
        return _write(path, rows, schema), True
    has_tools = any(row["tools"] for row in rows)
    fields = [pa.field("messages", _MESSAGES)]
    if has_tools:
        fields.append(pa.field("tools_json", pa.string()))
        for row in rows:
            row["tools_json"] = json.dumps(row.pop("tools"), ensure_ascii=False)
    else:
        for row in rows:
            del row["tools"]
    return _write(path, rows, pa.schema(fields)), not has_tools


def _tools_or_none(tools: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return to_openai_tools(tools) or None


def _is_nestable(rows: list[dict[str, Any]]) -> bool:
    """Whether Arrow has a type for the tools: one that mixes texts and numbers has none."""
    try:
        pa.array([row["tools"] for row in rows])
    except (pa.ArrowException, TypeError):
        return False
    return True


def _to_rows(messages: Iterable[Message], *, filled: bool = False) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for message in messages:
        row = to_openai_message(message, reasoning=True)
        for call in row.get("tool_calls", []):
            if not filled:
                call["function"]["arguments"] = parse_arguments(call["function"]["arguments"])
        if filled:
            row.setdefault("content", "")
        made.append(row)
    return made


def _write(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    schema: Schema,
    to_table: Callable[[list[Mapping[str, Any]]], Table] | None = None,
) -> int:
    def make_table(batch: list[Mapping[str, Any]]) -> Table:
        return pa.Table.from_pylist(batch, schema=schema) if to_table is None else to_table(batch)

    count = 0
    batch: list[Mapping[str, Any]] = []
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == _BATCH:
                writer.write_table(make_table(batch))
                batch = []
        if batch:
            writer.write_table(make_table(batch))
    return count
