"""By which template, tokenizer and parsers a policy's messages become tokens, read from its model's files."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from cluster.config import EndpointPolicy, RunConfig, VllmPolicy
from cluster.dataset.run_record import RunRecord
from cluster.policy.models import packaged_model
from cluster.policy.models.models import Model, find_model_folder
from cluster.policy.vllm.identity import weights_digest

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json")


def describe_run(config: RunConfig, model: str, environment_sampling: dict[str, Any]) -> RunRecord:
    """Describes by which template, tokenizer and parsers a run's messages become tokens.

    Args:
        config: The run's config.
        model: The policy's name.
        environment_sampling: The environment's own sampling arguments.

    Returns:
        A record without sessions.
    """
    policy = config.policy
    sampling = json.loads(json.dumps(environment_sampling, default=str))
    record = RunRecord(model=model, environment_sampling=sampling)
    if isinstance(policy, VllmPolicy):
        folder = model_folder(policy.model)
        given_tokenizer: str | None = policy.engine.get("tokenizer")
        tokenizer = model_folder(given_tokenizer) if given_tokenizer else folder
        record.tool_parser, record.reasoning_parser = parser_names(policy)
        given = template_file(policy)
        record.chat_template = (
            _read_text(given) if given is not None else tokenizer and read_own_template(tokenizer)
        )
        record.tokenizer_sha256 = tokenizer and tokenizer_digest(tokenizer)
        record.weights_digest = folder and weights_digest(folder)
    elif isinstance(policy, EndpointPolicy) and policy.tokenizer is not None:
        folder = model_folder(policy.tokenizer)
        record.chat_template = folder and read_own_template(folder)
        record.tokenizer_sha256 = folder and tokenizer_digest(folder)
    if record.chat_template is not None:
        record.chat_template_sha256 = hashlib.sha256(record.chat_template.encode()).hexdigest()
    return record


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
    return named if named.is_dir() else find_model_folder(Model(model, model, local=False))


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


def read_own_template(folder: Path) -> str | None:
    """The text of a model's own template; None where it has none, or one for each purpose."""
    text = _read_text(folder / "chat_template.jinja")
    if text is not None:
        return text
    try:
        settings: Any = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return None
    template = cast(dict[str, Any], settings).get("chat_template") if isinstance(settings, dict) else None
    return template if isinstance(template, str) else None


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
