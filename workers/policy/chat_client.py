# pyright: reportMissingTypeStubs=false
"""The client with which an environment of the classic API asks an OpenAI-compatible policy for actions."""

from typing import Any

import verifiers as vf
from verifiers.legacy.clients.openai_chat_completions_client import OpenAIChatCompletionsClient
from verifiers.legacy.types import Response

from workers.environments import tracing
from workers.environments.sendable import replace_unsendable
from workers.environments.tool_schemas import comes_from_arrow, tool_fields
from workers.policy.endpoint import NO_TOKENS_REASON, EndpointClient
from workers.policy.requests import note_exchange, plain_message
from workers.policy.turn_seeds import seed_turn
from workers.settings import PolicyEndpoint


class ChatPolicyClient(OpenAIChatCompletionsClient):
    """verifiers' chat-completions client, for a policy under training.

    It differs from its base in what it takes for an action: an answer that says nothing and calls nothing
    (an end-of-sequence token at once) is one, and not an error; and so is one that is nearly in OpenAI's
    shape. It answers, or raises, within the endpoint's `request_timeout`, retries included. One client serves
    all episodes of a worker, at the pace that the endpoint takes.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
    """

    is_exact = False
    """Whether each turn goes on from the token ids of the last, or fails."""

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self._asked = EndpointClient(endpoint)
        super().__init__(self._asked.connection)
        self.watch = self._asked.watch

    async def get_response(
        self,
        prompt: Any,
        model: str,
        sampling_args: Any,
        tools: Any = None,
        **kwargs: Any,
    ) -> Response:
        """Asks for one action, and notes what was sent and what came back.

        Raises:
            verifiers.Error: There is none.
        """
        prompt = replace_unsendable(prompt)
        trace = tracing.current_trace.get()
        try:
            native: Any = (await self.to_native_prompt(prompt))[0]
            sent: list[Any] = [plain_message(message) for message in native]
            from_arrow = trace is not None and comes_from_arrow(kwargs.get("state"), trace.row_is_arrow)
            given: list[Any] = tools or []
            offered = [{"type": "function", "function": tool_fields(tool, from_arrow)} for tool in given]
            sent, answer = await self._asked.ask(sent, model, seed_turn(dict(sampling_args)), offered)
            await self.raise_from_native_response(answer)
            response = await self.from_native_response(answer)
        except vf.Error:
            raise
        except Exception as error:
            raise vf.ModelError from error
        if trace is not None:
            missing = (
                NO_TOKENS_REASON if self._endpoint.token_ids and response.message.tokens is None else None
            )
            note_exchange(trace, response, sent, missing)
        return response

    async def raise_from_native_response(self, response: Any) -> None:
        """Refuses an answer that is not exactly one choice.

        Raises:
            verifiers.ModelError: It has none, or several.
        """
        try:
            await super().raise_from_native_response(response)
        except vf.EmptyModelResponseError:
            if not getattr(response, "choices", None):
                raise

    async def from_native_response(self, response: Any) -> Response:
        """The answer as verifiers sees it; an action that says nothing has the empty string for content."""
        made = fill_empty_content(await super().from_native_response(response))
        details = response.usage.prompt_tokens_details if response.usage is not None else None
        if made.usage is not None and details is not None:
            made.usage["cached_tokens"] = details.cached_tokens
        return made


def fill_empty_content(answer: Response) -> Response:
    """The same answer; an action that says nothing and calls nothing gets the empty string for content."""
    message = answer.message
    if message.content is None and not message.tool_calls:
        message.content = ""
    return answer
