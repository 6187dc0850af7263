"""Prompts that are too long, in the words of each server; and refusals that are about something else."""

import json

import pytest

from workers.overlong_prompts import is_overlong

TOO_LONG = [
    (400, "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"),
    (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 8203 tokens (7691 in the messages, 512 in the completion). Please reduce the length of the messages or completion.",
    ),
    (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 8192 tokens and your request has 7800 input tokens (512 > 8192 - 7800).",
    ),
    (
        400,
        "The prompt (total length 20000) is too long to fit into the model (context length 8192). Make sure that `max_model_len` is no smaller than the number of text tokens plus multimodal tokens.",
    ),
    (
        400,
        "The decoder prompt (length 21535) is longer than the maximum model length of 16384. Make sure that `max_model_len` is no smaller than the number of text tokens.",
    ),
    (400, "The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
    (
        400,
        "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens). Use a shorter input or enable --allow-auto-truncate.",
    ),
    (
        400,
        "Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total of 202941 tokens: 170941 tokens from the input messages and 32000 tokens for the completion. Please reduce the number of tokens",
    ),
    (400, "request (33056 tokens) exceeds the available context size (32768 tokens), try increasing it"),
    (
        400,
        "the request exceeds the available context size. try increasing the context size or enable context shift",
    ),
    (500, "the request exceeds the available context size, try increasing it"),
    (500, "context shift is disabled"),
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1244 `inputs` tokens and 1000 `max_new_tokens`",
    ),
    (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 1872"),
    (400, "The sum of prompt length (9351.0), query length (0) should not exceed max_num_tokens (8192)"),
    (400, "Prompt length (5056) exceeds maximum sequence length (2048)"),
    (
        500,
        "Encountered an error when fetching new request: Prompt length (200) exceeds maximum input length (1)",
    ),
    (
        400,
        "default_max_tokens (-100) must be greater than 0, default_max_tokens (-100) = max_seq_len (8192) - splited_prompt_len (8292) - query_token_len (0)",
    ),
    (
        400,
        "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded with context length of only 32768 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input.",
    ),
    (
        400,
        "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model with a larger context length, or provide a shorter input",
    ),
    (400, "Cannot truncate prompt with n_keep (15857) >= n_ctx (8192)"),
    (400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
    (
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens (129000 in the messages, 1000 in the functions). Please reduce the length of the messages or functions.",
    ),
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (
        400,
        "input length and `max_tokens` exceed context limit: 174167 + 64000 > 200000, decrease input length or `max_tokens` and try again",
    ),
    (413, "Request exceeds the maximum size"),
    (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    (400, "Please reduce the length of the messages or completion."),
    (
        413,
        "Request too large for model `llama-3.1-8b-instant` in organization on tokens per minute (TPM): Limit 6000, Requested 7000",
    ),
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 8999 `inputs` tokens and 512 `max_new_tokens`",
    ),
    (
        400,
        'This endpoint\'s maximum context length is 1048576 tokens. However, you requested about 1293741 tokens (1227853 of text input, 353 of tool input, 65535 in the output). Please reduce the length of either one, or use the "middle-out" transform',
    ),
    (
        400,
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ),
    (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
    (400, "Input is too long for requested model."),
    (400, "prompt token count of 130000 exceeds the limit of 128000"),
    (400, "invalid params, context window exceeds limit (2013)"),
    (400, "Your request exceeded model token limit: 262144 (requested: 270000)"),
    (400, "The total length of all messages is too long."),
    (400, "Current length is 9000 while limit is 8192"),
    (
        400,
        "Please reduce the length of the messages or completion. Current length is 8242 while limit is 8192",
    ),
    (
        400,
        "Invalid 'messages[1].content': string too long. Expected a string with maximum length 10485760, but got a string with length 20000000 instead.",
    ),
    (400, '{"error": {"message": "x", "code": "context_length_exceeded"}}'),
    (400, "litellm.ContextWindowExceededError: foo"),
    (400, "The input is too long. Range of input length should be [1, 129024]"),
    (400, "Range of input length should be [1, 98304]"),
    (400, "exceed model max_model_len"),
    (400, "Requested tokens (5000) exceed context window of 4096"),
    (500, "Requested tokens (5000) exceed context window of 4096"),
    (400, "input characters limit is 393216"),
    (400, "Tokens limit exceeded: the prompt has too many tokens"),
    (400, "The prompt is too long: 9000, model maximum context length: 8192"),
    (
        400,
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 280000 tokens.",
    ),
]
SOMETHING_ELSE = [
    (
        400,
        "max_tokens is too large: 9000. This model supports at most 4096 completion tokens, whereas you provided 9000.",
    ),
    (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens and your request has 30 input tokens (9000 > 8192 - 30).",
    ),
    (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9300 tokens (300 in the messages, 9000 in the completion). Please reduce",
    ),
    (400, "max_tokens=9000 cannot be greater than max_model_len=8192. Please request fewer output tokens."),
    (
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ),
    (
        400,
        "max_tokens: 300000 > 64000, which is the maximum allowed number of output tokens for claude-sonnet-4",
    ),
    (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
    (
        400,
        "Unable to submit request because it has a maxOutputTokens value of 100000 but the supported range is from 1 (inclusive) to 8193 (exclusive).",
    ),
    (400, "Additional context is required: the tool call has no matching tool result"),
    (400, "Error in chat template: 'context' is undefined"),
    (
        400,
        "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model",
    ),
    (400, "tool name too long: maximum length 64"),
    (
        400,
        "Invalid 'tools[0].function.name': string too long. Expected a string with maximum length 64, but got a string with length 80 instead.",
    ),
    (400, "'messages[3].tool_call_id': string too long. Expected maximum length 40"),
    (429, "Rate limit reached: too many tokens per minute"),
    (400, "Too many tokens per minute"),
    (500, "Internal server error"),
    (500, "CUDA out of memory while processing prompt"),
    (400, "image context is not supported by this model"),
    (400, "Invalid value for 'stop': array too long. Expected an array with maximum length 4"),
    (400, "Invalid schema for function: context deadline exceeded"),
    (400, "context deadline exceeded"),
    (400, "context canceled"),
    (404, "maximum context length"),
    (422, "Input validation error: `max_new_tokens` must be <= 512. Given: 9000"),
    (400, "logprobs: maximum prompt logprobs is 20"),
]


@pytest.mark.parametrize(("status", "said"), TOO_LONG)
def test_prompt_that_is_too_long_is_known_by_the_words(status: int, said: str) -> None:
    assert is_overlong(status, said)
    assert is_overlong(status, json.dumps({"error": {"message": said, "code": status}}))


@pytest.mark.parametrize(("status", "said"), SOMETHING_ELSE)
def test_refusal_that_is_about_something_else_is_not_taken_for_it(status: int, said: str) -> None:
    assert not is_overlong(status, json.dumps({"error": {"message": said, "code": status}}), first_turn=True)


def test_limit_that_leaves_a_long_conversation_no_room_is_the_conversations() -> None:
    said = (
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is "
        "8192 tokens and your request has 4000 input tokens (5000 > 8192 - 4000)."
    )
    assert is_overlong(400, said)
    assert not is_overlong(400, said, first_turn=True), "no episode would come to a second turn"
