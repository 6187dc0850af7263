"""Whether the base model that an adapter names is the one that is served."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cluster.errors import UpdateRefused
from cluster.policy.weights.tensor_files import first_numbers, folder_tensors

_COMPARED_NUMBERS = 256
"""Numbers of each tensor by which two folders are seen to hold the same model."""
_PRECISION = 0.01
"""Share by which these may differ: two kinds of numbers that a checkpoint may be written in."""
_REPACKED_SUFFIX = re.compile(r"(-unsloth)?(-bnb-4bit)?$")


def check_base_name(given: str, named: str | None, bases: Mapping[str, Path | None]) -> None:
    """Sees that an adapter does not name another base model.

    A folder that is here is compared by what it holds, and a name of the hub by its last part. A folder of
    another machine says nothing.

    Args:
        given: What errors call the adapter.
        named: Its `base_model_name_or_path`; None if it names none.
        bases: What the served model is known as, with the folder of each, where it is here.

    Raises:
        UpdateRefused: It is another one.
    """
    if named is None or not bases:
        return
    known = " or ".join(repr(name) for name in bases)
    folder = Path(named).expanduser()
    here = [base for base in bases.values() if base is not None]
    if folder.is_dir() and here:
        if not any(_holds_same_model(folder, base) for base in here):
            raise UpdateRefused(
                f"{given} is for another base model: its base_model_name_or_path is {named!r}, whose weights "
                f"are others than those of the served one, {known}"
            )
        return
    if _last_part(named) in {_last_part(name) for name in bases}:
        return
    if folder.is_dir() or folder.is_absolute() or named.startswith((".", "~")) or named.count("/") > 1:
        return
    raise UpdateRefused(
        f"{given} is for another base model: its base_model_name_or_path is {named!r}, and the served one is "
        f"{known}; if these are the same, set base_model_name_or_path in its adapter_config.json to that"
    )


def _last_part(name: str) -> str:
    return _REPACKED_SUFFIX.sub("", Path(name).name.lower())


def _holds_same_model(one: Path, other: Path) -> bool:
    """Whether two folders hold the same model, however it is divided into files, and in any precision."""
    if one.resolve() == other.resolve():
        return True
    try:
        some, others = folder_tensors(one), folder_tensors(other)
    except (OSError, ValueError):
        return True  # it cannot be told
    if not some or not others:
        return True
    if {name for name in some.keys() ^ others.keys() if not name.endswith("lm_head.weight")}:
        return False
    for name in some.keys() & others.keys():
        if some[name].shape != others[name].shape:
            return False
        a, b = first_numbers(some[name], _COMPARED_NUMBERS), first_numbers(others[name], _COMPARED_NUMBERS)
        if (
            a is not None
            and b is not None
            and not np.allclose(a, b, rtol=_PRECISION, atol=1e-6, equal_nan=True)
        ):
            return False
    return True
