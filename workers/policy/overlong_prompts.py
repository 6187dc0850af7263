"""What servers say of a prompt that is longer than the model's context: each has words of its own."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass

_TOO_LARGE_STATUS = 413
_OVERLONG_STATUSES = frozenset({400, _TOO_LARGE_STATUS, 422, 500})
"""Statuses that come with it. 500: llama.cpp and LM Studio before they had a status for it, Triton."""
_OVERLONG_CODES = re.compile(
    r"context_length_exceeded|context_window_exceeded|exceed_context_size_error|prompt_too_long"
    r"|model_context_window_exceeded|request_too_large|context_overflow"
)
_OVERLONG_WORDS = re.compile(
    "|".join(
        (
            # vLLM, SGLang, OpenAI, Azure, DeepSeek, OpenRouter, Mistral, xAI
            r"maximum (context|model|prompt|input) length",
            r"max_model_len",
            r"longer than (the|this) (model'?s? )?(maximum |max )?"
            r"(model|context|input|sequence) ?(length|window)?",
            r"exceeds? (the |this )?(model'?s? |available |allowed |maximum |max )*"
            r"(context|prompt|input)[ _](length|size|window|limit)",
            r"exceeds? (the )?(maximum )?allowed length",
            r"exceeded model (token limit|'?s? ?context)",
            r"exceed(s|ed)? (the |max |maximum )*(configured limit|context)",
            r"prompt has [\d,]+ tokens?, but the configured context size is",
            r"(reached|larger than the max) context (length|size)",
            r"context (length|window|size|limit) (was |is |has been )?(exceeded|overflow|full)",
            r"context window exceeds limit",
            r"context shift is disabled",
            r"contextwindowexceeded",
            r"n_keep.{0,30}>= n_ctx",
            r"when context (the )?overflows",
            r"greater than the context (length|window|size)",
            # Anthropic, Bedrock, Replicate, Perplexity
            r"(prompt|input|request|conversation|messages|messages is|context) (is |are )?too (long|large) "
            r"?(for|:|\(|,|\.|$)",
            r"(prompt|input|length of all messages) is too long",
            r"input length and `?max_tokens`? exceed context limit",
            r"too many (input |prompt )?tokens(?! per)",
            # Gemini, GitHub, TensorRT-LLM, Triton, TGI, Together
            r"(input|prompt) token count .{0,40}(exceeds|cannot exceed|only supports up to)",
            r"(prompt|input)('?s)? length .{0,60}(exceeds?|should not exceed|larger than|longer than)",
            r"prompt \(?length .{0,60}(is longer than|exceeds?)",
            r"default_max_tokens.{0,20}must be greater than 0",
            r"range of input length should be",
            r"input characters limit",
            r"current length is \d+ while limit is",
            r"`?inputs`? tokens \+ `?max_new_tokens`? must be",
            r"`?inputs`? must have less than",
            r"(tokens|sum of prompt length).{0,80}(exceeds?|not exceed|larger than) (the )?"
            r"(max_(num_tokens|seq_len|input_len|sequence_length)|maximum (sequence|input) length)",
            # SiliconFlow, Volcengine, watsonx, GLM, Kimi, Bedrock
            r"(input|prompt)[ _]tokens?.{0,40}(cannot exceed|must be less than|exceeds?|is greater than) "
            r"(the |model'?s? )*(max|total|limit)",
            r"exceed max message tokens",
            r"prompt exceeds max(imum)? length",
            r"input token length too long|token_quantity_exceeded",
            r"tokens in the prompt .{0,20}exceeds? the (model'?s? )?(limit|max)",
            # Groq, Cerebras, LM Studio, LiteLLM
            r"reduce the length of (the|your) (messages|prompt|input)",
            r"reduce your prompt",
            r"provide a shorter input",
            r"content'?: string too long",
        )
    )
)
_RATE_LIMIT_WORDS = re.compile(r"(tokens?|requests?) per (minute|day|hour|second)|\((tpm|tpd|rpm|rpd)\)")
_OUTPUT_LIMIT_WORDS = re.compile(
    r"(at most|supports? .{0,40}|only) \d+ (completion|output) tokens"
    r"|(?<!default_)max(imum)?[_ ](completion_|output |output_)?tokens.{0,60}"
    r"(must be|should be|less than or equal|not in range|range)"
    r"|max_tokens.{0,40}(cannot be greater|can't be greater|exceeds? the model'?s? (max|output))"
)
"""A limit on sampled tokens that is out of the model's range, whatever the prompt."""
_NO_ROOM_WORDS = re.compile(r"max_(completion_)?tokens must be (at least 1|positive)\W+got:? ?(-\d|0\b)")
"""vLLM's: a limit on sampled tokens, cut down to what the prompt leaves of the context, which is nothing."""
_MORE_THAN_A_MINUTES = re.compile(r"request too large for .{0,80}tokens per min")
"""OpenAI's: the prompt is of more tokens than the account may send in a minute: no waiting helps."""


@dataclass(frozen=True)
class _Sizes:
    context: int
    prompt: int
    sampled: int


def is_overlong(status: int, text: str, first_turn: bool = False) -> bool:
    """Whether a refusal is about a prompt that does not fit the model's context.

    A limit on sampled tokens which leaves no room for any prompt is not: the config is wrong there, and so
    would be an episode that ends without a word.

    Args:
        status: Of the answer.
        text: Its body.
        first_turn: Whether nothing of the prompt is the policy's own yet.
    """
    said = _normalise_text(text)
    if status not in _OVERLONG_STATUSES:
        # Providers that count tokens by the minute refuse for good what is more than a minute's worth.
        is_larger = _OVERLONG_CODES.search(said) or (not first_turn and _MORE_THAN_A_MINUTES.search(said))
        return status == 429 and bool(is_larger)
    if status == _TOO_LARGE_STATUS:
        return True
    sizes = _read_sizes(said)
    if sizes is not None:
        small = first_turn and sizes.prompt < min(sizes.context // 2, sizes.sampled)
        return sizes.prompt >= sizes.context or not (small or sizes.sampled >= sizes.context)
    if _OVERLONG_CODES.search(said) or _NO_ROOM_WORDS.search(said):
        return True
    if status == 500 and "context" not in said and "prompt" not in said:
        return False
    if _OUTPUT_LIMIT_WORDS.search(said) or (_RATE_LIMIT_WORDS.search(said) and "context" not in said):
        return False
    return bool(_OVERLONG_WORDS.search(said))


_SIZE_PATTERNS = (
    # vLLM until 0.10, DeepSeek, OpenAI
    (
        re.compile(
            r"maximum context length is (\d+) tokens.{0,80}?requested (?:about )?\d+ tokens "
            r"\((\d+) (?:in|of|from) [^,;()]*[,;] (\d+) (?:in|for)"
        ),
        (0, 1, 2),
    ),
    # vLLM since 0.10: "'max_tokens' is too large: 8000. This model's maximum context length is …"
    (
        re.compile(
            r"too large: (\d+)\. this model'?s maximum context length is (\d+) tokens "
            r"and your request has (\d+) input tokens"
        ),
        (1, 2, 0),
    ),
    # SGLang
    (
        re.compile(
            r"maximum context length of (\d+) tokens.{0,80}?: (\d+) tokens from the input messages and (\d+)"
        ),
        (0, 1, 2),
    ),
    # TGI
    (
        re.compile(r"max_new_tokens`? must be <= (\d+)\. given: (\d+) `?inputs`? tokens and (\d+)"),
        (0, 1, 2),
    ),
    # Anthropic
    (re.compile(r"exceed context limit: (\d+) \+ (\d+) > (\d+)"), (2, 0, 1)),
)
"""Refusals that name the context, the prompt and the limit on sampled tokens; and which number is which."""


def _read_sizes(said: str) -> _Sizes | None:
    for form, (context, prompt, sampled) in _SIZE_PATTERNS:
        if found := form.search(said):
            numbers = [int(number) for number in found.groups()]
            return _Sizes(numbers[context], numbers[prompt], numbers[sampled])
    return None


def _normalise_text(text: str) -> str:
    """The words of a body in small letters, without the backslashes of JSON within JSON."""
    with suppress(ValueError):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    return text.replace("\\", "").replace("’", "'").lower()
