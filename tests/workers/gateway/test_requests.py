"""What of a request goes on to the policy: pictures where it takes them, and an agent's limit of tokens."""

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.helpers.gateways import ServedGateway, served_gateway
from tests.helpers.mock_policy import Fault, MockPolicy
from tests.workers.gateway.test_dialects import TOOL, in_time
from tests.workers.gateway.test_exact_branches import endpoint as exact_endpoint
from workers.policy.chat_template import ChatTemplate
from workers.settings import PolicyEndpoint, SamplingSettings

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M/wHwAF/gL+Xw4AAAAASUVORK5CYII="
URL = f"data:image/png;base64,{PNG}"
USER: Any = [{"role": "user", "content": "go"}]


async def show_by_chat(served: ServedGateway, *parts: Any) -> Any:
    given: Any = parts or [{"type": "image_url", "image_url": {"url": URL}}]
    content: Any = [{"type": "text", "text": "What is this?"}, *given]
    async with served.openai(max_retries=0) as client:
        return await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": content}]
        )


async def show_by_responses(served: ServedGateway, *parts: Any) -> Any:
    given: Any = parts or [{"type": "input_image", "detail": "auto", "image_url": URL}]
    content: Any = [{"type": "input_text", "text": "What is this?"}, *given]
    async with served.openai(max_retries=0) as client:
        return await client.responses.create(model="m", input=[{"role": "user", "content": content}])


async def show_by_messages(served: ServedGateway, *parts: Any) -> Any:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    content: Any = [{"type": "text", "text": "What is this?"}, *(parts or [picture])]
    messages: Any = [{"role": "user", "content": content}]
    async with served.anthropic(max_retries=0) as client:
        return await client.messages.create(model="m", messages=messages, max_tokens=9)


SHOWN = [(show_by_chat, openai), (show_by_responses, openai), (show_by_messages, anthropic)]
NAMES = ["chat", "responses", "messages"]


@pytest.mark.parametrize(("show", "package"), SHOWN, ids=NAMES)
def test_a_picture_goes_to_the_policy_and_on_record(show: Any, package: Any) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                await show(served)
                (step,) = served.steps()
        sent = policy.requests[0]["messages"][0]["content"]
        assert [part["type"] for part in sent] == ["text", "image_url"]
        assert sent[1]["image_url"]["url"] == URL
        assert URL in (step.prompt_messages[0].content or "")

    in_time(play)


def test_a_picture_that_a_tool_gave_goes_to_the_policy() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                picture = {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                }
                result = {"type": "tool_result", "tool_use_id": "a", "content": [picture]}
                use = {"type": "tool_use", "id": "a", "name": "view", "input": {}}
                messages: Any = [
                    *USER,
                    {"role": "assistant", "content": [use]},
                    {"role": "user", "content": [result]},
                ]
                async with served.anthropic() as client:
                    await client.messages.create(model="m", messages=messages, max_tokens=9)
                call = {"type": "function_call", "call_id": "a", "name": "view", "arguments": "{}"}
                seen = {"type": "input_image", "image_url": URL}
                output = {"type": "function_call_output", "call_id": "a", "output": [seen]}
                items: Any = [*USER, call, output]
                async with served.openai() as client:
                    await client.responses.create(model="m", input=items)
        for request in policy.requests:
            assert request["messages"][-1]["role"] == "tool"
            assert request["messages"][-1]["content"][0]["image_url"]["url"] == URL

    in_time(play)


@pytest.mark.parametrize("version", [None, 3], ids=["an endpoint", "our own deployment"])
@pytest.mark.parametrize(("show", "package"), SHOWN, ids=NAMES)
def test_a_policy_that_takes_no_pictures_says_so_to_the_agent(
    show: Any, package: Any, version: int | None
) -> None:
    async def play() -> None:
        fault = Fault(status=400, message="At most 0 image(s) may be provided in one prompt.")
        with MockPolicy(fault) as policy:
            endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, version=version)
            async with served_gateway(policy, endpoint) as served:
                with pytest.raises(package.BadRequestError, match=r"At most 0 image\(s\)"):
                    await show(served)
                assert served.recorder.failure is None

    in_time(play)


@pytest.mark.parametrize(("show", "package"), SHOWN, ids=NAMES)
def test_a_policy_of_exact_tokens_reads_text_only(show: Any, package: Any, template: ChatTemplate) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy, exact_endpoint(policy, template)) as served:
                with pytest.raises(package.BadRequestError, match="images: this policy samples exact tokens"):
                    await show(served)
        assert policy.requests == []

    in_time(play)


@pytest.mark.parametrize(
    ("show", "package", "part", "words"),
    [
        (
            show_by_chat,
            openai,
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            r"messages\[0\]\.content\[1\]: a part of type 'input_audio' can't be given to the policy",
        ),
        (show_by_chat, openai, {"type": "image_url", "image_url": {}}, "an image must come with its data"),
        (show_by_chat, openai, {"type": "image_url"}, "an image must come with its data"),
        (show_by_chat, openai, {"type": "image_url", "image_url": "x"}, "an image must come with its data"),
        (show_by_messages, anthropic, {"type": "image", "source": "x"}, "an image must come with its data"),
        (
            show_by_responses,
            openai,
            {"type": "input_file", "file_id": "f"},
            r"input\[0\]\.content\[1\]: a part",
        ),
        (
            show_by_responses,
            openai,
            {"type": "input_image", "file_id": "f"},
            "an image must come with its data",
        ),
        (
            show_by_messages,
            anthropic,
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            r"messages\[0\]\.content\[1\]: a part of type 'document'",
        ),
        (
            show_by_messages,
            anthropic,
            {"type": "image", "source": {"type": "file", "file_id": "f"}},
            "an image must come with its data",
        ),
        (
            show_by_messages,
            anthropic,
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "document", "source": {}}]},
            r"messages\[0\]\.content\[1\]\.content\[0\]: a part of type 'document'",
        ),
    ],
)
def test_what_no_policy_is_given_is_refused_and_not_left_out(
    show: Any, package: Any, part: dict[str, Any], words: str
) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                with pytest.raises(package.BadRequestError, match=words):
                    await show(served, part)
        assert policy.requests == []

    in_time(play)


def test_the_smaller_limit_of_tokens_holds_and_the_runs_temperature() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            sampling = SamplingSettings(temperature=0.7, max_tokens=100)
            endpoint = PolicyEndpoint(
                kind="openai", model="mock", base_url=policy.base_url, sampling=sampling
            )
            async with served_gateway(policy, endpoint) as served, served.openai() as client:
                served.state["sampling_args"]["max_tokens"] = 100
                async with served.anthropic() as other:
                    for most in (5, 1000):
                        await client.chat.completions.create(
                            model="m", messages=USER, max_completion_tokens=most, temperature=0.0, top_p=0.1
                        )
                        await client.responses.create(model="m", input="go", max_output_tokens=most)
                        await other.messages.create(model="m", messages=USER, max_tokens=most)
                await client.chat.completions.create(model="m", messages=USER)
                on_record = [step.asked for step in served.steps()]
        assert on_record == ['{"max_tokens": 5}'] * 3 + [None] * 4
        asked = [
            (request["max_tokens"], request["temperature"], "top_p" in request) for request in policy.requests
        ]
        assert asked == [(5, 0.7, False)] * 3 + [(100, 0.7, False)] * 4

    in_time(play)


@pytest.mark.parametrize("most", [0, -1, "many", True, 1.5])
def test_a_limit_of_tokens_that_is_none_is_refused(most: Any) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                with pytest.raises(openai.BadRequestError, match=r"max_tokens: got .+; give a"):
                    await client.chat.completions.create(model="m", messages=USER, max_tokens=most)
                with pytest.raises(openai.BadRequestError, match="max_output_tokens: got"):
                    await client.responses.create(model="m", input="go", max_output_tokens=most)
        assert policy.requests == []

    in_time(play)


def test_what_an_agent_asks_for_and_the_run_leaves_to_it_is_on_record() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                tools: Any = [{"type": "function", "function": TOOL}]
                await client.chat.completions.create(
                    model="m", messages=USER, tools=tools, tool_choice="required", stop=["END"]
                )
                (step,) = served.steps()
        assert json.loads(step.asked or "") == {"tool_choice": "required", "stop": ["END"]}

    in_time(play)
