"""Frames that would cost whoever parses them: they are looked at before, on both sides of the pipe."""

import json
import tracemalloc
from collections.abc import Callable
from types import ModuleType

import pytest

from sandbox_images.tool_host import wire as inner
from workers.sandbox import wire as outer

MANY = inner.MAX_FRAME // 4
BOMBS: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: b'{"id":1,"ok":true,"result":[' + b"[]," * (MANY // 3) + b"[]]}",
    "empty objects": lambda: b'{"id":1,"ok":true,"result":[' + b"{}," * (MANY // 3) + b"{}]}",
    "numbers": lambda: b'{"id":1,"ok":true,"result":[' + b"1," * (MANY // 2) + b"1]}",
    "empty texts": lambda: b'{"id":1,"ok":true,"result":[' + b'"",' * (MANY // 3) + b'""]}',
    "texts of a backslash": lambda: b'{"id":1,"ok":true,"result":[' + rb'"\\\\",' * (MANY // 5) + b'""]}',
    "keys": lambda: b'{"id":1,"ok":true,"result":{' + b'"a":1,' * (MANY // 6) + b'"a":1}}',
    "quotes without end": lambda: b'{"id":1,"ok":true,"result":"[,' + rb'\\"' * (MANY // 2),
    "depth": lambda: b"[" * MANY,
    "another encoding": lambda: ('{"id":1,"ok":true,"result":[' + "[]," * (MANY // 6) + "[]]}").encode(
        "utf-16-le"
    ),
    "another encoding that looks like texts": lambda: (
        '{"id":1,"ok":true,"result":["\u2222",' + "[]," * (MANY // 6) + "[]]}"
    ).encode("utf-16-le"),
}


@pytest.mark.parametrize("side", [inner, outer], ids=["tool host", "worker"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_frame_that_would_take_seconds_to_parse_is_refused_before(
    side: ModuleType, bomb: Callable[[], bytes]
) -> None:
    """A worker's loop would stand still, and its memory grow by hundreds of megabytes."""
    body = bomb()
    tracemalloc.start()
    try:
        with pytest.raises((inner.WireError, outer.ProtocolError)):
            side.decode(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body), peak  # parsed, it would be over twenty times as much


@pytest.mark.slow
@pytest.mark.parametrize("side", [inner, outer], ids=["tool host", "worker"])
@pytest.mark.parametrize(
    "result",
    [
        "[],{}\\" * 2_000_000,
        ",".join(["1"] * 1_000_000),
        [[n, str(n)] for n in range(100_000)],
        '"' * 5_000_000,
    ],
    ids=["brackets in a text", "a table as text", "a long list", "quotes in a text"],
)
def test_large_frame_of_few_values_goes_through(side: ModuleType, result: object) -> None:
    body = json.dumps({"id": 1, "ok": True, "result": result}).encode()
    decoded = side.decode(body)
    assert (decoded["result"] if side is inner else decoded.result) == result


@pytest.mark.parametrize("side", [inner, outer], ids=["tool host", "worker"])
@pytest.mark.parametrize(
    "text", ["\n", '"', "\\", "a\n"], ids=["lines", "quotes", "backslashes", "short lines"]
)
def test_looking_at_texts_of_escapes_takes_no_memory(side: ModuleType, text: str) -> None:
    """A file of empty lines is such a text. It took eighty times its size, of the worker's memory as well."""
    body = json.dumps({"id": 1, "ok": True, "result": [text * 200_000, [[]] * inner.MAX_DEPTH]}).encode()
    tracemalloc.start()
    try:
        side.check_form(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(body), peak


def test_more_values_than_either_side_takes_are_not_sent() -> None:
    with pytest.raises(inner.WireError, match="values"):
        inner.encode({"id": 1, "result": [0] * (inner.MAX_VALUES + 1)})
    with pytest.raises(outer.ProtocolError, match="values"):
        outer.encode({"id": 1, "arguments": [0] * (outer.MAX_VALUES + 1)})
