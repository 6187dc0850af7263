"""LoRA adapters that a deployment serves under names of their own, beside the versions of its policy."""

import re
import shutil
import uuid
from pathlib import Path

from cluster.errors import UpdateRefused
from cluster.policy.weights import adapters
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.versions import VersionFolder
from cluster.policy.weights.weights_copy import copy_weights

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}-on-v(?P<base>\d+)")
_DIGEST_LENGTH = 12


class NamedAdapters:
    """The folder of a deployment's named adapters, inside that of its versions.

    What requests call an adapter, after the colon of the model's name, is `NAME-DIGEST-on-vBASE`: two runs
    with other adapters of one name do not meet, and none is ever taken for a version, which is `vN`. BASE is
    the version of the full weights that the adapter was made for.

    Args:
        versions: The deployment's versions.
    """

    def __init__(self, versions: VersionFolder) -> None:
        self._versions = versions
        self._folder = versions.path / "named"

    def add(self, name: str, adapter: Path, called: str, served: ServedModel) -> str:
        """Checks an adapter and copies it in.

        Args:
            name: What it is to be called.
            adapter: Its folder, as PEFT writes it.
            called: What the user calls that.
            served: The model that it is compared with.

        Returns:
            What requests call it, after the colon.

        Raises:
            UpdateRefused: It is missing, malformed, or for another model.
        """
        if not (adapter / adapters.CONFIG).is_file():
            what = f"there is no {adapters.CONFIG} in it" if adapter.is_dir() else "there is no such folder"
            raise UpdateRefused(f"the adapter {called}: {what}; give the folder of a LoRA adapter")
        self._versions.check_adapter(adapter, called, served)
        fresh = self._folder / f".{name}-{uuid.uuid4().hex}"
        try:
            digest = copy_weights(self._versions.list_files(adapter, "adapter"), fresh)
            named = f"{name}-{digest[:_DIGEST_LENGTH]}-on-v{self._versions.current.base}"
            if not (self._folder / named).is_dir():
                fresh.rename(self._folder / named)
        except (OSError, ValueError) as error:
            raise UpdateRefused(
                f"the adapter {called} cannot be copied to {self._folder}: {error}"
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return named

    def drop(self, named: str) -> None:
        """Takes away an adapter that the deployment refused."""
        shutil.rmtree(self._folder / named, ignore_errors=True)

    def find(self, named: str) -> Path | None:
        """Folder of an adapter, by what requests call it; None if there is none."""
        folder = self._folder / named
        return folder if _NAME.fullmatch(named) and (folder / adapters.CONFIG).is_file() else None


def base_of(named: str) -> int | None:
    """The version of the full weights that an adapter was made for; None if this is no adapter's name."""
    found = _NAME.fullmatch(named)
    return None if found is None else int(found["base"])


def parse_named(asked: str | None, model: str) -> str | None:
    """What requests call an adapter, if a model's name asks for one of this model; else None."""
    own, _, named = (asked or "").partition(":")
    return named if own == model and base_of(named) is not None else None
