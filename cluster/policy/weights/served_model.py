"""What new weights are compared with: the model that a deployment began with, by its files."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.policy.weights.tensor_files import folder_tensors

CONFIG = "config.json"


class TensorKind(BaseModel):
    """A tensor without its numbers."""

    shape: list[int]
    dtype: str
    """As safetensors names it: `BF16`, `F32`, …"""


class ServedModel(BaseModel):
    """A model's config, and its tensors' names and shapes."""

    config: dict[str, Any] | None = None
    """Its `config.json`. None: not known here."""
    tensors: dict[str, TensorKind] | None = None
    """Its tensors. None: not known here."""

    @classmethod
    def of_folder(cls, folder: Path | None) -> "ServedModel":
        """As much as is in a folder, which may lack the weights, or the config, or not be there at all."""
        if folder is None or not folder.is_dir():
            return cls()
        try:
            config = read_config(folder)
        except (OSError, ValueError):
            config = None
        try:
            kinds = {
                name: TensorKind(shape=tensor.shape, dtype=tensor.dtype)
                for name, tensor in folder_tensors(folder).items()
            }
        except (OSError, ValueError):
            kinds = {}
        return cls(config=config, tensors=kinds or None)

    @property
    def is_whole(self) -> bool:
        """Whether both the config and the tensors are known."""
        return self.config is not None and self.tensors is not None

    def filled_from(self, other: "ServedModel") -> "ServedModel":
        """This, with what it lacks from another description of the same model."""
        return ServedModel(config=self.config or other.config, tensors=self.tensors or other.tensors)

    def what_lacks(self) -> list[str]:
        """For the user: what new weights are not compared with."""
        lacks = [] if self.config is not None else ["the config"]
        return lacks if self.tensors is not None else [*lacks, "the tensors"]


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's `config.json`.

    Raises:
        ValueError: It holds no object.
        OSError: It cannot be read.
    """
    try:
        config: Any = json.loads((folder / CONFIG).read_bytes())
    except RecursionError as error:
        raise ValueError(f"{CONFIG} is nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} holds no object")
    return config  # pyright: ignore[reportUnknownVariableType]
