"""The text of sampled ids, as vLLM makes it while it samples."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from workers.records import StepRecord

_CONTEXT = 32
"""Tokens of the prompt's end that the first sampled ones are decoded after: spaces may depend on them."""


def texts_of(
    step: StepRecord, tokenizer: Any, ends: set[int], stops: Sequence[str], skip_special: bool | None
) -> Iterator[str]:
    """The texts that vLLM may have made of a step's sampled ids, the likeliest first.

    An end token is no part of the text, and the text ends before a stop string. Special tokens are left out
    unless the request, or the tool parser, asks for them.

    Args:
        step: It must have ids.
        tokenizer: The model's.
        ends: Ids that end a turn.
        stops: Strings that do.
        skip_special: Whether the request has special tokens left out. None: it does not say.
    """
    ids = step.completion_token_ids or []
    prompt = (step.prompt_token_ids or [])[-_CONTEXT:]
    ended = bool(ids) and ids[-1] in ends and step.finish_reason != "length"
    cuts = [ids[:-1], ids] if ended else [ids]
    seen: set[str] = set()
    for cut in cuts:
        for skip in (False, True) if skip_special is None else (skip_special,):
            for text in _decode_text(tokenizer, prompt, cut, skip):
                for each in (_before_stop(text, stops), text):
                    if each not in seen:
                        seen.add(each)
                        yield each


def end_tokens(tokenizer: Any, folder: Path | None) -> set[int]:
    """Ids that end a turn of a model: the tokenizer's, and those of the model's generation config."""
    ends = {tokenizer.eos_token_id} - {None}
    for name in ("generation_config.json", "config.json"):
        if folder is None:
            break
        with suppress(OSError, ValueError, AttributeError):
            given: Any = json.loads((folder / name).read_bytes()).get("eos_token_id")
            each = cast("list[Any]", given) if isinstance(given, list) else [given]
            ends |= {i for i in each if isinstance(i, int)}
    return ends


def _before_stop(text: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _decode_text(tokenizer: Any, prompt: list[int], ids: list[int], skip: bool) -> Iterator[str]:
    yield str(tokenizer.decode(ids, skip_special_tokens=skip))
    streamed = _stream_text(tokenizer, prompt, ids, skip)
    if streamed is not None:
        yield streamed


def _stream_text(tokenizer: Any, prompt: list[int], ids: list[int], skip: bool) -> str | None:
    """Token by token after the prompt, as vLLM does; None where the tokenizer is no fast one."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None:
        return None
    from tokenizers.decoders import DecodeStream

    made: Any = DecodeStream
    stream = made(ids=prompt, skip_special_tokens=skip)
    text = ""
    for token in ids:
        try:
            text += stream.step(backend, token) or ""
        except (OverflowError, TypeError):
            continue
        except Exception:  # noqa: BLE001 - the library raises its own; vLLM begins anew, too
            stream = made(skip_special_tokens=skip)
            text += stream.step(backend, token) or ""
    return text
