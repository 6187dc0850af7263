"""The prompts of gpt-oss, which vLLM renders by Harmony and not by a chat template."""

import os
from datetime import datetime
from typing import Any

from cluster.verify.report import NotChecked

_START_DATE = "VLLM_SYSTEM_START_DATE"


def harmony_prompt(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], effort: str | None, moment: datetime
) -> list[int]:
    """The ids that vLLM makes of a conversation with gpt-oss, by vLLM's own code.

    Args:
        messages: In OpenAI's shape.
        tools: Name, description and parameters of each.
        effort: The request's `reasoning_effort`.
        moment: When; the date is in the prompt.

    Raises:
        NotChecked: vLLM or Harmony, or Harmony's vocabulary, is not to be had here.
    """
    before = os.environ.get(_START_DATE)
    os.environ[_START_DATE] = moment.strftime("%Y-%m-%d")
    try:
        return _rendered(messages, tools, effort)
    except Exception as error:
        raise NotChecked(
            f"vLLM renders gpt-oss by Harmony, which cannot be had here: {type(error).__name__}: {error}"
        ) from error
    finally:
        if before is None:
            del os.environ[_START_DATE]
        else:
            os.environ[_START_DATE] = before


def _rendered(messages: list[dict[str, Any]], tools: list[dict[str, Any]], effort: str | None) -> list[int]:
    import importlib

    harmony: Any = importlib.import_module("vllm.entrypoints.openai.parser.harmony_utils")
    protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    offered = [{"type": "function", "function": tool} for tool in tools] or None
    request = protocol.ChatCompletionRequest.model_validate(
        {"model": "gpt-oss", "messages": messages, "tools": offered}
    )
    instructions, rest = harmony.extract_instructions_from_messages(list(request.messages))
    preamble = harmony.build_harmony_preamble(
        instructions=instructions,
        tools=request.tools,
        reasoning_effort=effort,
        with_custom_tools=bool(offered),
    )
    return list(
        harmony.render_for_completion([*preamble, *harmony.parse_chat_inputs_to_harmony_messages(rest)])
    )
