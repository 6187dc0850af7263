"""The renderers of a policy whose tokens are exact, each made once."""

import asyncio
import json
from typing import Any

from workers.errors import PolicyError, TemplateError
from workers.policy.sampling_keys import ExactRequest, make_sampling_arguments, template_options
from workers.policy.template_renderer import make_renderer
from workers.settings import PolicyEndpoint


class RendererCache:
    """Makes a renderer for what each turn tells the chat template.

    Args:
        endpoint: The policy.

    Raises:
        TemplateError: No renderer is exact for the model.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self.first: Any = make_renderer(endpoint)
        """The renderer for turns that ask for what the run's sampling does."""
        sampling = endpoint.sampling
        told = template_options({**make_sampling_arguments(sampling), **sampling.extra_body})
        self._made: dict[str, Any] = {_key_of(ExactRequest(options=told)): self.first}

    async def get(self, asked: ExactRequest) -> Any:
        """The renderer for what a turn tells the chat template, and the ids that end it.

        Raises:
            PolicyError: There is none that is exact.
        """
        key = _key_of(asked)
        if key not in self._made:
            sampling = self._endpoint.sampling.model_copy(
                update={"extra_body": {"chat_template_kwargs": asked.options}}
            )
            endpoint = self._endpoint.model_copy(update={"sampling": sampling})
            try:
                made = await asyncio.to_thread(make_renderer, endpoint, asked.stop_token_ids)
            except TemplateError as error:
                raise PolicyError(f"a turn cannot be rendered as its sampling asks: {error}") from error
            self._made.setdefault(key, made)
        return self._made[key]


def _key_of(asked: ExactRequest) -> str:
    """What two turns with one renderer have in common."""
    return json.dumps([asked.options, sorted(asked.stop_token_ids)], sort_keys=True, default=str)
