"""What a check needs to know of a run beside its episodes: its config, and what it noted of itself."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, cast

from cluster.config import EndpointPolicy, OraclePolicy, RunConfig, VllmPolicy
from cluster.dataset.manifest import Manifest
from cluster.dataset.run_folder import CHAT_TEMPLATE
from cluster.dataset.run_record import RunRecord
from cluster.policy.models.description import model_folder, parser_names, template_file
from workers.records import EpisodeRecord, StepRecord
from workers.settings import SamplingSettings

_DEFAULT_MAX_TOKENS = 512


@dataclass
class RunContext:
    """A run as a check sees it."""

    folder: Path
    """The run's folder."""
    config: RunConfig
    """Its config."""
    manifest: Manifest
    """Its manifest."""
    record: RunRecord | None
    """What it noted of itself. None of an old run."""
    tokenizer: str | None = None
    """The tokenizer that the user named in place of the config's."""
    _samplings: dict[str, SamplingSettings] = field(default_factory=dict[str, SamplingSettings])

    @property
    def policy(self) -> VllmPolicy | EndpointPolicy | OraclePolicy:
        """The config's policy."""
        return self.config.policy

    @property
    def gives_ids(self) -> bool:
        """Whether the policy gives token ids with every action."""
        policy = self.policy
        return isinstance(policy, VllmPolicy) or (
            isinstance(policy, EndpointPolicy) and policy.tokens == "exact"
        )

    @property
    def is_exact(self) -> bool:
        """Whether `policy.tokens` is `exact`."""
        return not isinstance(self.policy, OraclePolicy) and self.policy.tokens == "exact"

    @property
    def model(self) -> str | None:
        """What the tokenizer is found by; None where nothing says."""
        policy = self.policy
        if self.tokenizer is not None:
            return self.tokenizer
        if isinstance(policy, VllmPolicy):
            return str(policy.engine.get("tokenizer") or policy.model)
        if isinstance(policy, EndpointPolicy):
            return policy.tokenizer or (policy.model if self.is_exact else None)
        return None

    @property
    def model_folder(self) -> Path | None:
        """Where the model's files are on this machine."""
        named = self.model
        if self.tokenizer is None and isinstance(self.policy, VllmPolicy):
            named = self.policy.model
        try:
            return model_folder(named) if named is not None else None
        except (OSError, ValueError):
            return None

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer's files are on this machine."""
        try:
            return model_folder(self.model) if self.model is not None else None
        except (OSError, ValueError):
            return None

    @property
    def parsers(self) -> tuple[str | None, str | None]:
        """Names of the parsers of tool calls and of reasoning."""
        if self.record is not None and isinstance(self.policy, VllmPolicy):
            return self.record.tool_parser, self.record.reasoning_parser
        return parser_names(self.policy) if isinstance(self.policy, VllmPolicy) else (None, None)

    def template(self) -> Path | str | None:
        """The template in place of the model's own: as it was at the run's time, where that is on record.

        Raises:
            FileNotFoundError: The config names a file that is not found any more.
        """
        if self.record is not None and self.record.chat_template is not None:
            return self.record.chat_template
        given = template_file(self.policy) if isinstance(self.policy, VllmPolicy) else None
        if given is None:
            return None
        folder = self.folder.resolve()
        if (folder / CHAT_TEMPLATE).is_file():
            return folder / CHAT_TEMPLATE
        for place in (Path.cwd(), folder, *folder.parents[:3]):
            if (place / given).is_file():
                return place / given
        raise FileNotFoundError(f"policy.chat_template is {str(given)!r}: it is not found from here")

    def sampling(self, episode: EpisodeRecord, step: StepRecord | None = None) -> SamplingSettings:
        """How an episode was sampled; one step of it, with what its agent asked for."""
        if step is not None and step.asked is not None:
            return _as_asked(self.sampling(episode), json.loads(step.asked))
        if episode.sampling is None:
            policy = self.policy
            return SamplingSettings() if isinstance(policy, OraclePolicy) else policy.sampling
        if episode.sampling not in self._samplings:
            self._samplings[episode.sampling] = SamplingSettings.model_validate_json(episode.sampling)
        return self._samplings[episode.sampling]

    def extra_body(self, episode: EpisodeRecord, step: StepRecord | None = None) -> dict[str, Any]:
        """What the requests of an episode, or of a step, held beside arguments with names of their own."""
        own = self.environment_sampling
        named = {name: value for name, value in own.items() if name in ("reasoning_effort", "logit_bias")}
        extra = cast("dict[str, Any]", own.get("extra_body") or {})
        return {**named, **extra, **self.sampling(episode, step).extra_body}

    @property
    def environment_sampling(self) -> dict[str, Any]:
        """The environment's own sampling arguments, as far as they are on record."""
        return self.record.environment_sampling if self.record is not None else {}

    def max_tokens(self, episode: EpisodeRecord, step: StepRecord | None = None) -> int | None:
        """Most tokens of a turn; None where that is not known."""
        given = self.sampling(episode, step).max_tokens
        if given is not None or self.record is None:
            return given
        own = self.environment_sampling
        value = own.get("max_tokens") or own.get("max_completion_tokens") or _DEFAULT_MAX_TOKENS
        return value if isinstance(value, int) else None

    def stop_strings(self, episode: EpisodeRecord, step: StepRecord | None = None) -> list[str]:
        """Strings that ended a turn."""
        given = self.sampling(episode, step).stop or self.environment_sampling.get("stop")
        given = self.extra_body(episode).get("stop", given)
        return [given] if isinstance(given, str) else [str(each) for each in cast("list[Any]", given or [])]

    def moments(self, episode: EpisodeRecord) -> list[datetime]:
        """The moments, one a day, at which a template may have written an episode's date."""
        ends = (episode.started_at, episode.started_at + episode.timings.total)
        zones: list[tzinfo | None] = [UTC, None]
        if self.record is not None:
            zones = [session.begun.tzinfo for session in reversed(self.record.sessions)] + zones
        days: dict[Any, datetime] = {}
        for zone in zones:
            for seconds in ends:
                try:
                    moment = datetime.fromtimestamp(seconds, zone)
                except (OverflowError, ValueError, OSError):
                    continue
                days.setdefault(moment.date(), moment)
        return list(days.values()) or [datetime.now()]

    @property
    def is_harmony(self) -> bool:
        """Whether vLLM renders the model's conversations by Harmony, and by no template."""
        if self.model_type == "gpt_oss":
            return True
        template = self.record.chat_template if self.record is not None else None
        return template is not None and "<|channel|>" in template and "<|start|>" in template

    @property
    def model_type(self) -> str | None:
        """The `model_type` of the model's configuration, where that is on this machine."""
        folder = self.model_folder
        try:
            return json.loads((folder / "config.json").read_bytes()).get("model_type") if folder else None
        except (OSError, ValueError, AttributeError):
            return None


def _as_asked(sampling: SamplingSettings, asked: dict[str, Any]) -> SamplingSettings:
    """A run's sampling with what an agent's request changed of it."""
    changed: dict[str, Any] = {name: asked[name] for name in ("max_tokens",) if name in asked}
    if "stop" in asked:
        changed["stop"] = [asked["stop"]] if isinstance(asked["stop"], str) else asked["stop"]
    if "tool_choice" in asked:
        choice = asked["tool_choice"]
        changed["tool_choice"] = choice if isinstance(choice, str) else "required"
    if "response_format" in asked:
        changed["extra_body"] = {**sampling.extra_body, "response_format": asked["response_format"]}
    return sampling.model_copy(update=changed)
