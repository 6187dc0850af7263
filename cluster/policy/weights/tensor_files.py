"""What safetensors files hold: names, shapes and kinds of numbers, and whether all are finite."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

INDEX = "model.safetensors.index.json"
"""Of a checkpoint in several files: names each tensor's file."""
SINGLE = "model.safetensors"
"""Of a checkpoint in one file."""
_BITS_PER_NUMBER = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
_LARGEST = {"F16": 65504.0, "BF16": 3.3895313892515355e38}
"""Largest finite numbers."""
_BLOCK_BYTES = 1 << 24
"""Bytes that are looked at in one go."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a safetensors file."""

    shape: list[int]
    dtype: str
    """As safetensors names it: `BF16`, `F32`, …"""
    file: Path
    begin: int
    """Where its bytes begin in the file."""
    end: int


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are a checkpoint's, as transformers and vLLM choose them.

    With an index, these are the files that it names; without one, all but those in Mistral's own format
    (`consolidated*`), where others are beside them.

    Raises:
        ValueError: The index is none, or names a file that is not there.
        OSError: The index cannot be read.
    """
    found = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        try:
            named = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{INDEX} has no weight_map") from error
        missing = sorted(str(name) for name in named - {file.name for file in found})
        if missing:
            raise ValueError(f"{INDEX} names {missing[0]}, and there is no such file")
        return [file for file in found if file.name in named]
    return [file for file in found if not file.name.startswith("consolidated")] or found


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's folder, by name.

    Raises:
        ValueError: A file is none, or is not whole; a tensor is there twice, or not where the index says.
        OSError: A file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, tensor in file_tensors(file).items():
            if name in tensors:
                raise ValueError(f"{name!r} is in {tensors[name].file.name} and in {file.name}, too")
            tensors[name] = tensor
    if (folder / INDEX).is_file():
        named: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
        for name, file in named.items():
            if name not in tensors:
                raise ValueError(f"{INDEX} names the tensor {name!r}, which {file} does not hold")
    return tensors


def file_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, by name; the file must be as long as its header says.

    Raises:
        ValueError: The file is none, or is not whole.
        OSError: It cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        if not 0 < length <= size - 8:
            raise ValueError(f"{file.name} is no safetensors file")
        try:
            header = _parse_without_duplicates(opened.read(length), file)
        except RecursionError as error:
            raise ValueError(f"{file.name} is no safetensors file") from error
    header.pop("__metadata__", None)
    start = 8 + length
    try:
        tensors = {name: _make_tensor(name, entry, file, start) for name, entry in header.items()}
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{file.name} is no safetensors file") from error
    end = max((tensor.end for tensor in tensors.values()), default=start)
    if size != end:
        raise ValueError(f"{file.name} is {size} bytes long, and should be {end}")
    at = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise ValueError(
                f"{file.name} is no safetensors file: {name!r} begins at {tensor.begin}, not {at}"
            )
        at = tensor.end
    return tensors


def find_non_finite(tensor: Tensor, served: str | None = None) -> str | None:
    """What a tensor has among its numbers that is none, `NaN` or `infinity`; None if all are finite.

    Integers, and kinds of numbers that cannot tell, have none.

    Args:
        tensor: The tensor.
        served: The kind of numbers that it is served as; what is beyond these becomes infinity. None: BF16.
    """
    largest = _LARGEST["F16" if served == "F16" else "BF16"]
    if tensor.dtype not in ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"):
        return None
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}.get(tensor.dtype, "u1")
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            block = np.frombuffer(opened.read(min(left, _BLOCK_BYTES)), kind)
            left -= min(left, _BLOCK_BYTES)
            if tensor.dtype == "BF16":
                # The upper half of a float32: the exponent's eight bits are all set.
                bad = block[(block & 0x7F80) == 0x7F80]
                nan = bool((bad & 0x7F).any())
                if not bad.size and ((block & 0x7FFF) > _as_bf16(largest)).any():
                    return f"a number beyond {largest:.4g}, which is infinity as it is served,"
            elif tensor.dtype == "F8_E4M3":
                bad = block[(block & 0x7F) == 0x7F]
                nan = True
            elif tensor.dtype == "F8_E5M2":
                bad = block[(block & 0x7C) == 0x7C]
                nan = bool((bad & 0x3).any())
            else:
                bad = block[~np.isfinite(block)]
                nan = bool(np.isnan(bad).any())
                if not bad.size and tensor.dtype != "F16" and (np.abs(block) > largest).any():
                    return f"a number beyond {largest:.4g}, which is infinity as it is served,"
            if bad.size:
                return "NaN" if nan else "infinity"
    return None


def _as_bf16(number: float) -> int:
    """A float's upper half, whose order without the sign is that of the numbers."""
    return int(np.float32(number).view(np.uint32)) >> 16


def first_numbers(tensor: Tensor, count: int) -> "np.ndarray[Any, np.dtype[np.float32]] | None":
    """The first numbers of a tensor as float32; None where they are of a kind that numpy cannot read."""
    if tensor.dtype not in ("F16", "BF16", "F32", "F64"):
        return None
    width = _BITS_PER_NUMBER[tensor.dtype] // 8
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.begin)
        raw = opened.read(min(tensor.end - tensor.begin, count * width))
    if tensor.dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[tensor.dtype]
    return np.frombuffer(raw, kind).astype(np.float32)


def _parse_without_duplicates(text: bytes, file: Path) -> dict[str, Any]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            raise ValueError(f"{file.name} is no safetensors file: its header names a thing twice")
        return built

    header = json.loads(text, object_pairs_hook=build)
    if not isinstance(header, dict):
        raise ValueError(f"{file.name} is no safetensors file")
    return cast(dict[str, Any], header)


def _make_tensor(name: str, entry: Any, file: Path, start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    shape, dtype = list(entry["shape"]), str(entry["dtype"])
    numbers = [begin, end, *shape]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("a size is no whole number")
    bits = _BITS_PER_NUMBER.get(dtype)
    if begin > end or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
        raise ValueError(
            f"{file.name} is no safetensors file: {name!r} has {end - begin} bytes, and shape "
            f"{shape} of {dtype}"
        )
    return Tensor(shape, dtype, file, start + begin, start + end)
