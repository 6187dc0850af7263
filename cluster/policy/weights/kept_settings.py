"""Files beside new weights that a deployment does not take: it keeps its model's tokenizer and settings."""

import json
import logging
from pathlib import Path
from typing import Any, cast

from cluster.errors import UpdateRefused
from cluster.policy.models.description import read_own_template

_log = logging.getLogger(__name__)


def check_kept_settings(given: str, weights: Path, model: Path | None) -> None:
    """Compares tokenizer, chat template and end tokens beside new weights with those that are served.

    A tokenizer by which an id is another token is refused. What only makes prompts or the end of answers
    differ is said, since a run's config may say it otherwise.

    Args:
        given: What errors call the weights.
        weights: Their folder.
        model: The folder of the model that the deployment was started with. None: it is not here.

    Raises:
        UpdateRefused: The weights are for another tokenizer.
    """
    if model is None or weights.resolve() == model.resolve():
        return
    tokens, served = _read_tokens(weights), _read_tokens(model)
    if tokens and served:
        for number in sorted(tokens.keys() & served.keys()):
            if tokens[number] != served[number]:
                raise UpdateRefused(
                    f"{given} is for another tokenizer: token {number} of the tokenizer.json beside it is "
                    f"{tokens[number]!r}, and the served model's is {served[number]!r}; the deployment keeps "
                    "its own: begin a run with the new one as policy.model"
                )
        if added := sorted(tokens.keys() - served.keys()):
            _log.warning(
                "%s: the tokenizer.json beside it has %d tokens that the served model's lacks, such as %r; "
                "the deployment keeps its own, which gives no text for them",
                given,
                len(added),
                tokens[added[0]],
            )
    template = read_own_template(weights)
    if template is not None and template.strip() != (read_own_template(model) or template).strip():
        _log.warning(
            "%s: the chat template beside it is not the served model's; the deployment keeps the template "
            "that it was started with (policy.chat_template gives it another)",
            given,
        )
    ends, served_ends = _read_end_tokens(weights), _read_end_tokens(model)
    if ends and served_ends and not ends <= served_ends:
        _log.warning(
            "%s: its config and generation_config name the end tokens %s, and the served model's %s; the "
            "deployment keeps its own (policy.sampling.extra_body.stop_token_ids adds some)",
            given,
            sorted(ends),
            sorted(served_ends),
        )


def _read_tokens(folder: Path) -> dict[int, str]:
    """The tokens of a tokenizer.json by id; empty where there is none, or it has no such list."""
    tokenizer = _read_object(folder / "tokenizer.json")
    model: Any = tokenizer.get("model")
    vocabulary: Any = cast(dict[str, Any], model).get("vocab") if isinstance(model, dict) else None
    tokens: dict[int, str] = {}
    if isinstance(vocabulary, list):  # of a unigram: token and score
        tokens |= {number: str(pair[0]) for number, pair in enumerate(cast(list[list[Any]], vocabulary))}
    elif isinstance(vocabulary, dict):
        ids = cast(dict[str, Any], vocabulary)
        tokens |= {number: text for text, number in ids.items() if type(number) is int}
    else:
        return {}
    added: Any = tokenizer.get("added_tokens")
    for entry in cast(list[Any], added) if isinstance(added, list) else []:
        if isinstance(entry, dict):
            token = cast(dict[str, Any], entry)
            if type(token.get("id")) is int:
                tokens[token["id"]] = str(token.get("content"))
    return tokens


def _read_end_tokens(folder: Path) -> set[int]:
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        said: Any = _read_object(folder / name).get("eos_token_id")
        ends |= {
            end for end in cast(list[Any], said if isinstance(said, list) else [said]) if type(end) is int
        }
    return ends


def _read_object(file: Path) -> dict[str, Any]:
    try:
        read: Any = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], read) if isinstance(read, dict) else {}
