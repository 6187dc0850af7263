"""What tokens say, where the model's tokenizer is on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
