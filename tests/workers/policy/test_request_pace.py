"""Requests at the pace that a server takes: it is used, and refuses few."""

import asyncio
import time

import pytest

from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from workers.errors import PolicyError, PolicyRefusal
from workers.policy.endpoint import request_answer
from workers.policy.request_pace import RequestPace
from workers.settings import PolicyEndpoint


class Bucket:
    """A server that takes so many requests a second, and a second's worth at once."""

    def __init__(self, rate: float) -> None:
        self.rate, self.left, self.at = rate, rate, time.monotonic()
        self.refused = self.answered = 0

    def takes(self) -> bool:
        now = time.monotonic()
        self.left = min(self.rate, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            self.refused += 1
            return False
        self.left -= 1
        return True


@pytest.mark.slow
async def test_most_of_a_rate_is_used_and_few_requests_are_refused() -> None:
    server, pace, requests = Bucket(50), RequestPace(), 600

    async def ask() -> None:
        ticket = pace.take_ticket()
        while True:
            await pace.admit(ticket)
            if server.takes():
                await asyncio.sleep(0.05)
                pace.answer(ticket)
                server.answered += 1
                return
            pace.refuse(ticket, None)

    began = time.monotonic()
    await asyncio.gather(*(ask() for _ in range(requests)))
    seconds = time.monotonic() - began
    assert server.answered == requests
    assert server.refused / requests <= 0.1
    assert requests / (server.rate * seconds) >= 0.6, f"{seconds} s"
    assert pace.rate is not None and pace.most is not None


async def test_refusals_of_one_round_cut_once_and_only_what_was_taken_stays_at_once() -> None:
    pace = RequestPace()
    tickets = [pace.take_ticket() for _ in range(4)]
    for ticket in tickets:
        await pace.admit(ticket)
    pace.refuse(tickets[3], None)
    rate = pace.rate
    pace.refuse(tickets[2], None)
    assert rate is not None and pace.rate == pytest.approx(rate, rel=0.05)
    assert pace.most == 2
    assert (pace.in_flight, pace.refused) == (2, 2)


async def test_server_that_names_a_time_is_left_alone_until_then_by_all() -> None:
    pace = RequestPace()
    first, second = pace.take_ticket(), pace.take_ticket()
    await pace.admit(first)
    pace.refuse(first, 0.5)
    began = time.monotonic()
    order: list[int] = []

    async def admitted(ticket: int) -> None:
        await pace.admit(ticket)
        order.append(ticket)
        pace.answer(ticket)

    await asyncio.gather(admitted(second), admitted(first))
    assert time.monotonic() - began >= 0.45
    assert order == [first, second], "who was refused goes first"


async def test_request_that_is_given_up_leaves_its_place() -> None:
    pace = RequestPace()
    first, second = pace.take_ticket(), pace.take_ticket()
    await pace.admit(first)
    pace.refuse(first, 60)
    waiting = asyncio.create_task(pace.admit(second))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pace.in_flight == 0


@pytest.mark.slow
@pytest.mark.parametrize("paced", [False, True])
async def test_rate_limit_is_waited_out(paced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workers.policy.test_chat_client import ask

    monkeypatch.setattr("workers.policy.outage._MIN_WAIT", 0.001)
    monkeypatch.setattr("workers.policy.request_pace._PAUSES", (0.0, 0.01, 0.05))
    with MockPolicy(*[Fault(status=429)] * 12, Reply(content="at last")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, paced=paced)
        answer = await ask(endpoint)
    assert answer.message.content == "at last"
    assert len(policy.requests) == 13


async def test_empty_account_is_not_waited_for() -> None:
    from tests.workers.policy.test_chat_client import ask

    with MockPolicy(default=Fault(status=429, message="insufficient_quota")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, paced=True)
        with pytest.raises(PolicyRefusal, match=r"answered 429: .*insufficient_quota"):
            await ask(endpoint)
        assert len(policy.requests) == 1


@pytest.mark.slow
async def test_rate_limit_that_lasts_longer_than_it_may_is_a_policy_error_with_its_words() -> None:
    from tests.workers.policy.test_chat_client import ask

    with MockPolicy(default=Fault(status=429, message="slow down")) as policy:
        endpoint = PolicyEndpoint(
            kind="openai", model="mock", base_url=policy.base_url, paced=True, request_timeout=2
        )
        with pytest.raises(PolicyError, match=r"429 for as long as policy.request_timeout.*slow down"):
            await ask(endpoint)


async def test_an_answer_frees_its_place_whatever_it_is() -> None:
    pace = RequestPace()
    endpoint = PolicyEndpoint(kind="openai", model="mock", base_url="http://policy")

    async def fails() -> None:
        raise ValueError("no JSON")

    with pytest.raises(PolicyError, match="no JSON"):
        await request_answer(endpoint, fails, pace)
    assert pace.in_flight == 0
