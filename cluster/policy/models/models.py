"""What `policy.model` names: the packaged model, a folder, or a model of the Hugging Face hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ModelUnavailable
from cluster.policy.base import OnStage
from cluster.policy.models import packaged_model

_HUB_TIMEOUT = 15.0
"""Seconds that the hub may take to say whether it has a model."""
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


@dataclass(frozen=True)
class Model:
    name: str
    """What requests and records call it."""
    source: str
    """What vLLM loads: a folder, or a hub's id."""
    local: bool
    """Whether the source is a folder."""


def check_model(model: str) -> None:
    """Sees whether a model can be had, without fetching or preparing anything.

    Raises:
        ModelUnavailable: It is not there.
    """
    if model == packaged_model.NAME:
        return
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(
                f"policy.model is {model!r}: that folder holds no model, it has no config.json"
            )
        return
    if model.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(model):
        raise ModelUnavailable(
            f"policy.model is {model!r}, and there is no such folder; it should be a model folder, a Hugging "
            f"Face model id, or {packaged_model.NAME!r}"
        )
    _check_hub(model)


def resolve_model(model: str, on_stage: OnStage) -> Model:
    """The model that a name stands for, prepared if it is the packaged one. `check_model` goes before it.

    Raises:
        ModelUnavailable: The packaged one cannot be had.
    """
    if model == packaged_model.NAME:
        return Model(model, str(packaged_model.prepare(on_stage)), local=True)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Model(folder.resolve().name, str(folder.resolve()), local=True)
    return Model(model, model, local=False)


def find_model_folder(model: Model) -> Path | None:
    """Finds the folder of a model's files on this machine; None if they are not here."""
    if model.local:
        return Path(model.source)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.source, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def find_model_commit(model: Model) -> str | None:
    """The commit of a hub's model that this machine has; None where it has none, or the model is a folder."""
    folder = None if model.local else find_model_folder(model)
    return None if folder is None else folder.name


def _check_hub(model: str) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return
    named = f"policy.model is {model!r}: there is no such folder"
    try:
        HfApi().model_info(model, timeout=_HUB_TIMEOUT)
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"{named}, and the Hugging Face hub has no such model (or hides it)"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{named}, and neither is it in the Hugging Face cache nor can the hub be asked: {error}"
        ) from error


def check_template_shows_tools(model: str, chat_template: Path | None) -> None:
    """Sees that a model is shown the tools it may call, where its template is on this machine.

    Raises:
        ModelUnavailable: Its chat template never speaks of tools.
    """
    template = _find_template_text(model, chat_template)
    if template is not None and "tools" not in template:
        given = (
            f"policy.chat_template is {str(chat_template)!r}" if chat_template else "its own chat template"
        )
        raise ModelUnavailable(
            f"policy.model is {model!r}, and this environment has tools, of which the model would not hear "
            f"({given} has no `tools`): set policy.chat_template to a template that has"
        )


def _find_template_text(model: str, chat_template: Path | None) -> str | None:
    """The text of a model's chat template; None where it is not here."""
    if chat_template is not None:
        return chat_template.read_text(encoding="utf-8") if chat_template.is_file() else None
    if model == packaged_model.NAME:
        return None
    named = Path(model).expanduser()
    folder = named if named.is_dir() else find_model_folder(Model(model, model, local=False))
    if folder is None:
        return None
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return None
    template = settings.get("chat_template")
    return None if template is None else json.dumps(template)
