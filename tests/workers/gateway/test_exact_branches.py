"""With exact tokens, a call that goes on from an earlier one has its ids verbatim, and so has a fork."""

from typing import Any

import openai
import pytest

from cluster.verify.token_rules import prompt_continues
from tests.helpers.gateways import served_gateway
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.tiny_tokenizer import END
from tests.workers.gateway.test_dialects import TOOL, in_time
from workers.policy.chat_template import ChatTemplate
from workers.settings import PolicyEndpoint

TOOLS: Any = [{"type": "function", "strict": False, **TOOL}]
CALL = '<tool_call>\n{"name":"bash",  "arguments": {"command": "ls"}}\n</tool_call>'
"""With two blanks, as no template would write it anew."""


def says(template: ChatTemplate, text: str) -> Reply:
    ids = template.encode(text)
    return Reply(token_ids=ids, logprobs=[-0.5] * len(ids), finish_reason="stop")


def endpoint(policy: MockPolicy, template: ChatTemplate) -> PolicyEndpoint:
    return PolicyEndpoint(
        kind="openai",
        model="mock",
        base_url=policy.base_url,
        token_ids=True,
        tokens="exact",
        tokenizer=template.model,
        request_timeout=30.0,
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_branch_goes_on_token_by_token_and_a_fork_from_where_it_left(template: ChatTemplate) -> None:
    replies = [says(template, CALL + END), *(says(template, f"said {i}{END}") for i in range(3))]

    async def play() -> None:
        with MockPolicy(*replies) as policy:
            async with (
                served_gateway(policy, endpoint(policy, template)) as served,
                served.openai() as client,
            ):
                first = await client.responses.create(model="m", input="go", tools=TOOLS)
                call: Any = first.output[0].model_dump(exclude_none=True)
                call["arguments"] = '{"command":"ls"}'  # as some agents write it anew
                output: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}
                so_far: Any = [user("go"), call, output]
                await client.responses.create(model="m", input=so_far, tools=TOOLS)
                other: Any = [user("go"), call, {**output, "output": "otherwise"}]
                await client.responses.create(model="m", input=other, tools=TOOLS)
                await client.responses.create(model="m", input="a sub-agent", tools=TOOLS)
                steps = served.steps()
        assert [(s.branch, s.parent_step) for s in steps] == [(0, None), (0, 0), (1, 0), (2, 2)]
        assert prompt_continues(steps[0], steps[1])
        assert prompt_continues(steps[0], steps[2])
        assert not prompt_continues(steps[1], steps[3])
        assert [request["token_ids"] for request in policy.requests] == [s.prompt_token_ids for s in steps]
        assert all(len(s.completion_logprobs or []) == len(s.completion_token_ids or []) > 0 for s in steps)

    in_time(play)


def test_what_exact_tokens_cannot_be_held_to_is_refused(template: ChatTemplate) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with (
                served_gateway(policy, endpoint(policy, template)) as served,
                served.openai() as client,
            ):
                with pytest.raises(openai.BadRequestError, match="samples exact tokens"):
                    await client.responses.create(model="m", input="go", tools=TOOLS, tool_choice="required")
        assert policy.requests == []

    in_time(play)
