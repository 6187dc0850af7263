"""What a session can do to the gateway that it is given: ask it for its own model calls, and nothing else."""

import asyncio
import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.cells import Cell
from tests.helpers.gateways import gateway_of
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.relay_servers import CONNECT
from tests.helpers.sandboxes import eventually, said
from workers.gateway import bodies
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

HTTP = """
import threading
def exchange(data, end=None, is_all=False):
    "Sends bytes, and gives all that comes until the other side has closed; these may be all."
    end = end or connect()
    try:
        end.sendall(data)
        if is_all: end.shutdown(socket.SHUT_WR)
    except OSError: pass
    seen = b""
    try:
        while part := end.recv(65536): seen += part
    except OSError: pass
    end.close()
    return seen
def request(line, body=b"", *headers, key=None):
    head = [line + " HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}", *headers]
    if key: head.append("authorization: Bearer " + key)
    return ("\\r\\n".join(head) + "\\r\\n\\r\\n").encode("latin-1") + body
def status(answer):
    return answer.split(b" ")[1].decode() if b" " in answer else repr(answer)
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "go"}]}).encode()
"""
ROUTES = (
    "POST /v1/chat/completions",
    "POST /v1/responses",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "GET /v1/models",
    "GET /",
)


@pytest.fixture
def policy() -> Iterator[MockPolicy]:
    with MockPolicy() as policy:
        yield policy


async def run(session: Session, code: str, **given: Any) -> str:
    """What code in a session has put into `seen`; `given` are variables of it."""
    variables = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    return await said(session, "attempt", code=CONNECT + HTTP + variables + code)


async def test_without_the_sessions_own_key_nothing_is_answered(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy) as mine, gateway_of(policy) as theirs:
        session, other = await cell.session(mine.connect), await cell.session(theirs.connect)
        keys = [None, "x", theirs.key, mine.key[:-1], mine.key + "x", "Bearer " + mine.key, "ÿ"]
        code = "seen = [status(exchange(request(line, CHAT, key=key))) for line in ROUTES for key in KEYS]"
        answers = await run(session, code, ROUTES=ROUTES, KEYS=keys)
        assert set(json.loads(answers.replace("'", '"'))) == {"401"}
        right = await run(
            session, "seen = exchange(request(ROUTES[0], CHAT, key=KEY))", ROUTES=ROUTES, KEY=mine.key
        )
        assert right.startswith("b'HTTP/1.1 200")
        if cell.level.recycle == "fork":  # they share a loopback: a neighbour's gateway can be reached
            address = ("127.0.0.1", int(other.gateway_address.rsplit(":", 1)[1]))
            code = "end = socket.create_connection(ADDRESS, 10); end.settimeout(30)\n"
            code += "seen = status(exchange(request(ROUTES[0], CHAT, key=KEY), end))"
            assert await run(session, code, ROUTES=ROUTES, KEY=mine.key, ADDRESS=address) == "401"
        await cell.pool.release(session)
        await cell.pool.release(other)
    assert len(policy.requests) == 1
    await cell.unharmed()


PATHS = (
    "/v1/../etc/passwd",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/v1/chat/completions/../../../etc/passwd",
    "//etc/passwd",
    "/v1/messages/\\..\\..\\etc",
    "/v1/files/../chat/completions?file=/etc/passwd",
    "/V1/CHAT/COMPLETIONS",
    "/v1/chat/completions%00.json",
    "http://169.254.169.254/latest/meta-data/",
    "http://example.com/v1/chat/completions",
    "*",
    "/" + "a" * 60_000,
    "/" + "a" * 100_000,
)


async def test_no_path_leads_anywhere_else(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy) as gateway:
        session = await cell.session(gateway.connect)
        code = """
seen = []
for path in PATHS:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = exchange(request(method + " " + path, CHAT, key=KEY))
        seen.append([method, path[:60], status(answer), b"root:" in answer])
for line in ("CONNECT example.com:443", "CONNECT 169.254.169.254:80", "CONNECT 127.0.0.1:22"):
    answer = exchange(request(line, key=KEY))
    seen.append([*line.split(), status(answer), False])
seen = json.dumps(seen)
"""
        answers: list[Any] = json.loads(await run(session, code, PATHS=PATHS, KEY=gateway.key))
        assert {answer[2] for answer in answers} <= {"400", "404"}, answers
        assert not any(answer[3] for answer in answers)
        await cell.pool.release(session)
    assert policy.requests == []
    await cell.unharmed()


async def test_bodies_of_a_gibibyte_are_refused_and_not_kept(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy) as gateway:
        session = await cell.session(gateway.connect)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code = """
head = "POST /v1/messages HTTP/1.1\\r\\nhost: x\\r\\nx-api-key: " + KEY + "\\r\\n"
end = connect(); end.sendall((head + "content-length: 1073741824\\r\\n\\r\\n").encode() + bytes(1000))
told = end.recv(65536); end.close()
end = connect()
sent, part = 0, b"100000\\r\\n" + b"a" * 0x100000 + b"\\r\\n"
answers = []
def listen():
    try: answers.append(end.recv(65536))
    except OSError as error: answers.append(repr(error).encode())
listening = threading.Thread(target=listen); listening.start()
try:
    end.sendall((head + "transfer-encoding: chunked\\r\\n\\r\\n").encode())
    while sent < 1024 and not answers: end.sendall(part); sent += 1
except OSError: pass
listening.join()
seen = json.dumps([status(told), status(answers[0]), sent])
"""
        declared, chunked, sent = json.loads(await run(session, code, KEY=gateway.key))
        assert (declared, chunked) == ("413", "413")
        assert 60 < sent < 128, sent
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 400 * 1024, f"{grown / 1024:.0f} MiB more for a body of at most 64 MiB"
        await cell.pool.release(session)
    assert policy.requests == []
    await cell.unharmed()


async def test_slow_requests_hold_up_nobody_and_are_given_up(
    cell: Cell, policy: MockPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 2.0)
    async with gateway_of(policy) as gateway:
        session = await cell.session(gateway.connect)
        code = """
head = "POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer " + KEY + "\\r\\n"
slow = []
for _ in range(20):
    end = connect(); end.sendall((head + "content-length: 100\\r\\n\\r\\n{").encode()); slow.append(end)
for _ in range(20):
    end = connect(); end.sendall(b"POST /v1/chat/comp"); slow.append(end)
quick = status(exchange(request("POST /v1/chat/completions", CHAT, key=KEY)))
given_up = [status(end.recv(4096)) for end in slow[:20]]
seen = json.dumps([quick, given_up])
"""
        quick, given_up = json.loads(await run(session, code, KEY=gateway.key))
        assert quick == "200"
        assert set(given_up) == {"400"}
        await cell.unharmed()
        await cell.pool.release(session)
    assert len(policy.requests) == 1


SMUGGLED = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
"""A request without a key, hidden in another's body: whoever takes it for one answers it."""
TWO_WAYS = (
    ("content-length: 4", "transfer-encoding: chunked"),
    ("transfer-encoding: chunked", "content-length: 4"),
    ("transfer-encoding: xchunked",),
    ("transfer-encoding: chunked, identity",),
    ("transfer-encoding: identity, chunked",),
    ("transfer-encoding : chunked",),
    ("transfer-encoding:\x0bchunked",),
    ("content-length: 4", "content-length: 0"),
    ("content-length: +4",),
    ("content-length: 4, 0",),
    ("content-length: -1",),
    ("content-length: 0x4",),
    (" content-length: 4",),
    ("x: y\r content-length: 4",),
    ("x: y\ncontent-length: 4",),
)


ENDINGS = (
    "0\r\n\r\n",
    "5;a=b\r\nabcde\r\n0\r\n\r\n",
    "-1\r\n\r\n",
    "0\r\nx-api-key: y\r\n\r\n",
    "",
)


async def test_smuggled_requests_are_not_answered(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy) as gateway:
        session = await cell.session(gateway.connect)
        code = """
seen = []
for headers in TWO_WAYS:
    for ending in ENDINGS:
        end = connect(); end.settimeout(0.2)
        head = ["POST /v1/messages HTTP/1.1", "host: x", "x-api-key: " + KEY, *headers]
        answer = exchange(("\\r\\n".join(head) + "\\r\\n\\r\\n" + ending + SMUGGLED).encode("latin-1"), end)
        seen.append([headers, ending, answer.decode("latin-1")])
seen = json.dumps(seen)
"""
        answers: list[Any] = json.loads(
            await run(session, code, TWO_WAYS=TWO_WAYS, ENDINGS=ENDINGS, SMUGGLED=SMUGGLED, KEY=gateway.key)
        )
        for headers, ending, answer in answers:
            assert " 200 " not in answer and '"mock"' not in answer, (headers, ending, answer)
        await cell.pool.release(session)
    assert policy.requests == []
    await cell.unharmed()


async def test_bytes_that_are_no_request_are_told_so(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy) as gateway:
        session = await cell.session(gateway.connect)
        code = """
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
bodies = [b'{"messages": "\\xff\\xfe"}', b"[" * 1_000_000, b'{"a":' * 500_000, b"{", b"", b"null",
    b"1e999999999",
    b'{"messages": [{"role": "user", "content": "\\\\ud800"}]}', b'{"messages": {}}', b'{"messages": [null]}',
    b'{"messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    b"9" * 100_000]
answers = [exchange(request("POST " + path, body, key=KEY)) for path in ROUTES for body in bodies]
raw = [exchange(data, is_all=True) for data in (
    b"\\xff" * 100_000,
    b"\\r\\n\\r\\n",
    b"GET\\r\\n\\r\\n",
    b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n",
    b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03\\r\\n\\r\\n",
    b"GET / HTTP/1.1\\r\\n" + b"a: b\\r\\n" * 20_000)]
seen = json.dumps([[status(each) for each in answers], [status(each) for each in raw]])
"""
        answers, raw = json.loads(await run(session, code, KEY=gateway.key))
        assert answers.count("200") == 2, answers  # half of a surrogate pair is mended, and is a message
        assert set(answers) == {"400", "200"}, answers
        assert raw.pop(1) == "b''", "empty lines before a request are passed over, and there was none"
        assert set(raw) <= {"400", "401"}, raw  # what the sender of HTTP/2 lacks first is a key
        await cell.pool.release(session)
    await cell.unharmed()


async def test_a_flood_of_calls_leaves_the_neighbour_its_own(cell: Cell, policy: MockPolicy) -> None:
    async with gateway_of(policy, turns=100_000) as gateway, gateway_of(policy, turns=100_000) as theirs:
        session = await cell.session(gateway.connect)
        other = await cell.session(theirs.connect)
        code = """
limit, counts = time.monotonic() + 3, []
def flood():
    count = 0
    while time.monotonic() < limit:
        count += status(exchange(request("POST /v1/chat/completions", CHAT, key=KEY))) == "200"
    counts.append(count)
flooding = [threading.Thread(target=flood) for _ in range(8)]
[each.start() for each in flooding]; [each.join() for each in flooding]; seen = sum(counts)
"""
        asked = asyncio.create_task(run(session, code, KEY=gateway.key))
        answered = 0
        while not asked.done():
            await cell.unharmed()
            call = "seen = status(exchange(request('POST /v1/chat/completions', CHAT, key=KEY)))"
            assert await run(other, call, KEY=theirs.key) == "200"
            answered += 1
        assert int(await asked) > 8
        assert answered >= 2
        await cell.pool.release(session)
        await cell.pool.release(other)
    await cell.unharmed()


async def test_answers_that_nobody_reads_cost_the_worker_little(cell: Cell) -> None:
    """The next request of a connection waits until the answer before it has been read."""
    with MockPolicy(default=Reply("x" * 1_000_000)) as policy:
        async with gateway_of(policy, turns=100_000) as gateway:
            session = await cell.session(gateway.connect)
            code = """
import builtins
body = json.dumps({"messages": [{"role": "user", "content": "go"}], "stream": True}).encode()
head = "POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer " + KEY
asking = (head + f"\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n").encode() + body
builtins.kept = [connect() for _ in range(8)]
for end in builtins.kept:
    end.settimeout(0.5)
    try: end.sendall(asking * 500)
    except OSError: pass
time.sleep(2); seen = "unread"
"""
            assert await run(session, code, KEY=gateway.key) == "unread"
            await eventually(lambda: len(policy.requests) >= 8)  # the first one of each connection
            await asyncio.sleep(1)
            assert len(policy.requests) < 200
            await cell.unharmed()
            await cell.pool.release(session)
    await cell.unharmed()


async def test_what_goes_on_asking_after_its_session_is_closed_reaches_nobody(
    cell: Cell, policy: MockPolicy
) -> None:
    async with gateway_of(policy, turns=100_000) as gateway:
        session = await cell.session(gateway.connect)
        code = """
if os.fork() == 0:
    os.setsid()
    while True:
        exchange(request("POST /v1/chat/completions", CHAT, key=KEY)); time.sleep(0.01)
seen = "left"
"""
        assert await run(session, code, KEY=gateway.key) == "left"
        await eventually(lambda: len(policy.requests) > 3)
        await gateway.close()
        await cell.pool.release(session)
        asked = len(policy.requests)
        await cell.unharmed()
        await asyncio.sleep(1)
        assert len(policy.requests) == asked
