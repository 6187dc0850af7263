"""What a deployment serves, as a digest: the files of its model, and those that its settings name."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from cluster.policy.weights.tensor_files import weight_files

_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")
)
"""Of files that vLLM may read: weights, configs, tokenizers, chat templates, a model's own code."""
_OTHER_WEIGHTS = frozenset((".bin", ".pt", ".pth", ".gguf"))
_WHOLE_FILE_BYTES = 1 << 25
"""Bytes up to which a file is read as a whole."""
_SAMPLE_BYTES = 1 << 16
"""Bytes that are read of a larger one at its beginning, at its end, and at places between."""
_SAMPLE_COUNT = 16


def content_digest(model: Path | None, settings: Any, *files: Path | None) -> str:
    """A digest that changes when what is served does.

    Small files count by their content. Of larger ones, the weights, so do their size, the time of their last
    change and samples of their content: reading them as a whole takes minutes. So one that was copied anew,
    or touched, counts as another.

    Args:
        model: The model's folder; None where it is not here.
        settings: vLLM's settings; what they name that is a file or a folder here counts by what it holds.
        files: Further files.
    """
    digest = hashlib.blake2b(digest_size=16)
    named = [Path(text).expanduser() for text in _settings_texts(settings) if "/" in text]
    for path in (model, *files, *named):
        if path is None or not path.exists():
            digest.update(b"-")
        elif path.is_dir():
            for file in sorted([*path.glob("*.*"), *path.glob("additional_chat_templates/*.*")]):
                if file.suffix in _SUFFIXES and file.is_file():
                    _add_file(digest, str(file.relative_to(path)), file)
        else:
            _add_file(digest, "", path)
    return digest.hexdigest()


def weights_digest(model: Path) -> str | None:
    """A digest of a model's weight files, wherever and whenever they were copied.

    Their names and sizes count, and of large ones samples of their content.

    Args:
        model: The model's folder.

    Returns:
        None where there are none, or not all of them.
    """
    try:
        files = weight_files(model)
    except (OSError, ValueError):
        return None
    files = files or sorted(file for file in model.glob("*.*") if file.suffix in _OTHER_WEIGHTS)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        _add_file(digest, file.name, file, dated=False)
    return digest.hexdigest() if files else None


def _settings_texts(settings: Any) -> Iterable[str]:
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, dict):
        for value in cast(dict[str, Any], settings).values():
            yield from _settings_texts(value)
    elif isinstance(settings, list):
        for value in cast(list[Any], settings):
            yield from _settings_texts(value)


def _add_file(digest: "hashlib.blake2b", name: str, file: Path, *, dated: bool = True) -> None:
    stat = file.stat()
    digest.update(f"{name}\0{stat.st_size}\0".encode())
    with file.open("rb") as opened:
        if stat.st_size <= _WHOLE_FILE_BYTES:
            digest.update(hashlib.blake2b(opened.read()).digest())
            return
        if dated:
            digest.update(str(stat.st_mtime_ns).encode())
        for place in range(_SAMPLE_COUNT + 1):
            opened.seek(max(0, stat.st_size - _SAMPLE_BYTES) * place // _SAMPLE_COUNT)
            digest.update(hashlib.blake2b(opened.read(_SAMPLE_BYTES)).digest())
