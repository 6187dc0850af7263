"""What tokens say, where the model's tokenizer is on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.dataset.run_record import load_run_record
from cluster.policy.models.description import model_folder
from workers.records import EpisodeRecord

log = logging.getLogger(__name__)


class TokenTexts:
    """Texts of token ids.

    Args:
        folder: The model's folder. None, or one without `tokenizer.json`: there are no texts.
    """

    def __init__(self, folder: Path | None) -> None:
        self._tokenizer: Any = None
        self._known: dict[int, str] = {}
        file = None if folder is None else folder / "tokenizer.json"
        if file is None or not file.is_file():
            return
        try:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - not installed, or a file of another kind
            log.info("%s gives no token texts: %s", file, error)

    def decode_ids(self, ids: Sequence[int]) -> list[str] | None:
        """The text of each token; None where there is no tokenizer."""
        if self._tokenizer is None:
            return None
        for token in set(ids) - self._known.keys():
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            self._known[token] = text or str(self._tokenizer.id_to_token(token) or "")
        return [self._known[token] for token in ids]


def find_tokenizer_folder(run_dir: Path) -> Path | None:
    """The folder of the run's model on this machine; None if it is not known, or not here."""
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        model = config["policy"].get("model") if config["policy"]["kind"] == "vllm" else None
        if model is None:
            record = load_run_record(run_dir)
            model = record.model if record else None
        return None if not model else model_folder(str(model))
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def step_before(episode: EpisodeRecord, place: int) -> int | None:
    """The place of the step that a step goes on from; None where there is none.

    Args:
        episode: The episode.
        place: The step's place in it.
    """
    step = episode.steps[place]
    if step.branch is None and step.agent is None:
        return place - 1 if place else None
    parent = step.parent_step
    return next((at for at in range(place) if episode.steps[at].step_index == parent), None)


def count_kept_tokens(episode: EpisodeRecord, place: int) -> tuple[int, bool]:
    """How many tokens of a step's prompt are those of the step that it goes on from, id by id.

    Returns:
        The number, and whether these are all tokens of that step, prompt and sampled ones.
    """
    parent = step_before(episode, place)
    if parent is None:
        return 0, True
    before = episode.steps[parent]
    ids = [*(before.prompt_token_ids or []), *(before.completion_token_ids or [])]
    prompt = episode.steps[place].prompt_token_ids or []
    kept = next((at for at, (one, other) in enumerate(zip(ids, prompt, strict=False)) if one != other), None)
    if kept is None:
        kept = min(len(ids), len(prompt))
    return kept, kept == len(ids)
