"""Frames as both ends of the pipe cut and read them."""

import json
import random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_images.tool_host import wire as inner
from workers.sandbox import wire as outer

ERRORS = (inner.WireError, outer.ProtocolError)
both_ends = pytest.mark.parametrize("wire", [inner, outer], ids=["tool host", "worker"])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.slow
@both_ends
@given(messages=st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5), seed=st.integers())
def test_frames_survive_any_tearing(wire: ModuleType, messages: list[dict[str, Any]], seed: int) -> None:
    stream = b"".join(wire.encode(message) for message in messages)
    cuts = random.Random(seed)
    frames = wire.FrameBuffer()
    received: list[Any] = []
    while stream:
        size = cuts.randint(1, 9)
        received += [json.loads(body) for body in frames.feed(stream[:size])]
        stream = stream[size:]
    assert received == messages


@both_ends
def test_frame_is_not_read_before_it_is_complete(wire: ModuleType) -> None:
    frame = wire.encode({"id": 1})
    frames = wire.FrameBuffer()
    assert list(frames.feed(frame[:-1])) == []
    assert list(frames.feed(frame[-1:])) == [b'{"id":1}']


@both_ends
def test_frame_over_the_limit_is_refused_by_its_header_alone(wire: ModuleType) -> None:
    with pytest.raises(ERRORS, match=f"{wire.MAX_FRAME + 1} bytes is over the limit of {wire.MAX_FRAME}"):
        list(wire.FrameBuffer().feed(wire.HEADER.pack(wire.MAX_FRAME + 1)))


@both_ends
def test_message_over_the_limit_is_not_encoded(wire: ModuleType) -> None:
    with pytest.raises(ERRORS, match="over the limit"):
        wire.encode({"id": 1, "text": "x" * wire.MAX_FRAME})


def test_ends_agree_on_the_limit_and_the_header() -> None:
    assert (inner.MAX_FRAME, inner.HEADER.format) == (outer.MAX_FRAME, outer.HEADER.format)


@both_ends
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"null", b'"text"', b"\xff\xfe", b'{"id":1}{', b"[" * 100_000]
)
def test_body_that_is_no_object_is_refused(wire: ModuleType, body: bytes) -> None:
    with pytest.raises(ERRORS):
        wire.decode(body)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"id": 1},
        {"ok": True},
        {"id": "1", "ok": True},
        {"id": True, "ok": True},
        {"id": 1.0, "ok": True},
        {"id": 1, "ok": 1},
        {"id": 1, "ok": False},
        {"id": 1, "ok": False, "error": None},
        {"id": 1, "ok": False, "error": "no"},
        {"id": 1, "ok": False, "error": {"kind": "call"}},
        {"id": 1, "ok": False, "error": {"kind": "call", "type": "E", "message": 1, "trace": ""}},
        {"id": 1, "ok": True, "more": 1},
    ],
)
def test_object_that_is_no_reply_is_refused_by_both_ends(reply: dict[str, Any]) -> None:
    """The tool host ends a session that says such a thing; to the worker, its sandbox is dead."""
    with pytest.raises(inner.WireError):
        inner.relay(json.dumps(reply).encode())
    with pytest.raises(outer.ProtocolError):
        outer.decode(json.dumps(reply).encode())


@pytest.mark.parametrize(
    "reply",
    [
        {"id": 1, "ok": True},
        {"id": 1, "ok": True, "result": {"a": [1, None]}},
        {"id": 1, "ok": False, "error": {"kind": "call", "type": "E", "message": "m", "trace": ""}},
    ],
)
def test_reply_is_taken_by_both_ends(reply: dict[str, Any]) -> None:
    assert inner.relay(json.dumps(reply).encode())[0] == 1
    assert outer.decode(json.dumps(reply).encode()).id == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":1,"ok":true,"result":"\xc3\xa9"}',
        b'{"id":1,"ok":true,"result":"\\ud800"}',
        b'{"id":1,"ok":true,"result":"\xed\xa0\x80"}',
        b'  {"id":1,"ok":true,"result":"a"}',
        '{"id":1,"ok":true,"result":"a"}'.encode("utf-16-le"),
        '{"id":1,"ok":true,"result":"a"}'.encode("utf-32"),
    ],
)
def test_what_is_passed_on_is_what_a_worker_can_write_down(body: bytes) -> None:
    (passed_on,) = outer.FrameBuffer().feed(inner.relay(body)[1])
    reply = outer.decode(passed_on)
    assert reply.id == 1
    passed_on.decode()
    json.dumps(reply.result, ensure_ascii=False).encode()


@pytest.mark.slow
@both_ends
@given(value=values)
def test_message_within_the_depth_is_sent(wire: ModuleType, value: Any) -> None:
    wire.encode({"value": value, "nested": nested(wire.MAX_DEPTH - 1)})


@both_ends
@pytest.mark.parametrize("depth", [0, 1, 2, 500, 5_000])
def test_message_beyond_the_depth_is_not_sent(wire: ModuleType, depth: int) -> None:
    """`depth` is how much too deep, the message itself being the first level."""
    text = "[{]}" * 100 + '"\\'
    wire.encode({text: text, "value": [{"a": 1}, nested(wire.MAX_DEPTH - 2)]})
    with pytest.raises(ERRORS, match=f"nested more than {wire.MAX_DEPTH} levels deep"):
        wire.encode({text: text, "value": [{"a": 1}, nested(wire.MAX_DEPTH - 1 + depth)]})


@both_ends
def test_brackets_in_text_are_no_nesting(wire: ModuleType) -> None:
    text = "[" * 10_000 + '"\\' * 500 + "{" * 500
    assert json.loads(wire.encode({"text": text, text: [text]})[4:]) == {"text": text, text: [text]}


def test_text_that_is_no_unicode_leaves_the_sandbox_as_unicode() -> None:
    frame = inner.encode({"id": 1, "ok": True, "result": "half \ud83d, whole 😀"})
    assert json.loads(frame[4:].decode("utf-8"))["result"] == "half ?, whole 😀"
