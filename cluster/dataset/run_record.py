"""`run.json`: what a run noted of itself while it went on, which a later check of its dataset needs."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pydantic import AwareDatetime, Field, ValidationError

from cluster.config import EndpointPolicy, RunConfig, VllmPolicy
from cluster.dataset.durable import replacing
from cluster.policy.models import packaged_model
from cluster.policy.models.models import Model, folder_of
from workers.records import Record

NAME = "run.json"
"""The file's name in a run's folder."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json")


class RunSession(Record):
    """One time that the run was at work: it has several where it was resumed."""

    begun: AwareDatetime
    """When it began, in the driver's time zone; a chat template may write the date."""
    ended: AwareDatetime | None = None
    """When it ended. Null while it is at work, and where it was killed."""
    first_version: int | None = None
    """Version of the policy's weights when it began. Null where that is not known."""
    last_version: int | None = None
    """Version of the policy's weights when it ended."""
    image_id: str | None = None
    """Docker's id of the image that `sandbox.image` named. Null where it named none, or on a cluster."""


class RunRecord(Record):
    """What `run.json` holds."""

    model: str
    """The policy's name in requests and records."""
    chat_template: str | None = None
    """The Jinja text by which messages became prompts. Null where it was not on the driver's machine."""
    chat_template_sha256: str | None = None
    """SHA-256 of that text."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the model's tokenizer file. Null where it was not on the driver's machine."""
    environment_sampling: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The environment's own sampling arguments, which those of the config win over."""
    tool_parser: str | None = None
    """Name of vLLM's parser of tool calls. Null: none, or not known."""
    reasoning_parser: str | None = None
    """Name of vLLM's parser of reasoning. Null: none, or not known."""
    sessions: list[RunSession] = Field(default_factory=list[RunSession])
    """The times that it was at work, the first one first."""


def load_run_record(folder: Path) -> RunRecord | None:
    """What a run noted of itself; None of a run that was written before there was such a file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return RunRecord.model_validate_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None


def begin_session(
    folder: Path,
    config: RunConfig,
    model: str,
    environment_sampling: dict[str, Any],
    version: int | None,
    image_id: str | None = None,
) -> None:
    """Notes that a run is at work; the template and the parsers are those of its first time.

    Args:
        folder: The run's folder.
        config: Its config.
        model: The policy's name.
        environment_sampling: The environment's own sampling arguments.
        version: Version of the policy's weights.
        image_id: The id of the image that `sandbox.image` names, where that is known.
    """
    record = _readable(folder) or _described(config, model, environment_sampling)
    begun = datetime.now().astimezone()
    record.sessions.append(RunSession(begun=begun, first_version=version, image_id=image_id))
    _write(folder, record)


def end_session(folder: Path, version: int | None) -> None:
    """Notes that a run has come to an end, or has been broken off in order."""
    record = _readable(folder)
    if record is not None and record.sessions:
        last = record.sessions[-1]
        last.ended, last.last_version = datetime.now().astimezone(), version
        _write(folder, record)


def parser_names(policy: VllmPolicy) -> tuple[str | None, str | None]:
    """Names of vLLM's parsers of tool calls and of reasoning, as the engine is started with them."""
    engine = policy.engine
    enabled = engine.get("enable_auto_tool_choice", policy.tool_parser is not None)
    tools = engine.get("tool_call_parser", policy.tool_parser) if enabled else None
    return tools, cast("str | None", engine.get("reasoning_parser"))


def model_folder(model: str) -> Path | None:
    """Where the files of what `policy.model` names are on this machine; None if they are not."""
    if model == packaged_model.NAME:
        return packaged_model.folder() if packaged_model.is_prepared() else None
    named = Path(model).expanduser()
    return named if named.is_dir() else folder_of(Model(model, model, local=False))


def template_file(policy: VllmPolicy) -> Path | None:
    """The template that the config names in place of the model's own."""
    given = policy.engine.get("chat_template", policy.chat_template)
    return None if given is None else Path(given).expanduser()


def tokenizer_digest(folder: Path) -> str | None:
    """The SHA-256 of a model's tokenizer file; None where it has none."""
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return None


def _described(config: RunConfig, model: str, environment_sampling: dict[str, Any]) -> RunRecord:
    policy = config.policy
    sampling = json.loads(json.dumps(environment_sampling, default=str))
    record = RunRecord(model=model, environment_sampling=sampling)
    if isinstance(policy, VllmPolicy):
        folder = model_folder(policy.model)
        record.tool_parser, record.reasoning_parser = parser_names(policy)
        given = template_file(policy)
        record.chat_template = _text(given) if given is not None else folder and own_template(folder)
        record.tokenizer_sha256 = folder and tokenizer_digest(folder)
    elif isinstance(policy, EndpointPolicy) and policy.tokenizer is not None:
        folder = model_folder(policy.tokenizer)
        record.chat_template = folder and own_template(folder)
        record.tokenizer_sha256 = folder and tokenizer_digest(folder)
    if record.chat_template is not None:
        record.chat_template_sha256 = hashlib.sha256(record.chat_template.encode()).hexdigest()
    return record


def own_template(folder: Path) -> str | None:
    """The text of a model's own template; None where it has none, or one for each purpose."""
    text = _text(folder / "chat_template.jinja")
    if text is not None:
        return text
    try:
        settings: Any = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return None
    template = cast(dict[str, Any], settings).get("chat_template") if isinstance(settings, dict) else None
    return template if isinstance(template, str) else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _readable(folder: Path) -> RunRecord | None:
    try:
        return load_run_record(folder)
    except ValidationError:
        return None


def _write(folder: Path, record: RunRecord) -> None:
    with replacing(folder / NAME) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
