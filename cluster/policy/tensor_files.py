"""What safetensors files hold, by their headers alone."""

import json
import struct
from pathlib import Path
from typing import Any


def folder_shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of all tensors in a folder's safetensors files, by name.

    Raises:
        ValueError: A file is none, or is not whole.
        OSError: A file cannot be read.
    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= file_shapes(file)
    return shapes


def file_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file, by name; the file must be as long as its header says.

    Raises:
        ValueError: The file is none, or is not whole.
        OSError: It cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        if not 0 < length <= size - 8:
            raise ValueError(f"{file.name} is no safetensors file")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    try:
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        shapes = {name: list(tensor["shape"]) for name, tensor in header.items()}
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{file.name} is no safetensors file") from error
    if size != 8 + length + end:
        raise ValueError(f"{file.name} is {size} bytes long, and should be {8 + length + end}")
    return shapes
