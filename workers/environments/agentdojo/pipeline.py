"""How the agent around the policy is made up: AgentDojo's pipeline, and what may be changed in it."""

from typing import Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from workers.environments.agentdojo.defenses import DEFENSES, DefenseChoice
from workers.settings import Settings

AGENTDOJO_TURNS = 16
"""AgentDojo queries the model once, then at most 15 times after running tools (`max_iters`)."""

PRESETS: dict[str, dict[str, Any]] = {
    "agentdojo-default": {},
    **{f"agentdojo-{defense}": {"defense": defense} for defense in DEFENSES},
}
"""AgentDojo's own pipelines: what each one changes of the default."""


class PipelineSettings(Settings):
    """The agent around the policy: the part of `environment.args` that makes it up."""

    preset: str | None = None
    """One of AgentDojo's own pipelines, exactly: `agentdojo-default`, or `agentdojo-` and the name of one of
    its defenses. It sets the four keys below. Null: set them yourself; their defaults are those of
    `agentdojo-default`."""
    system_message: str | None = None
    """System message that replaces AgentDojo's default one."""
    tool_output: Literal["yaml", "json"] = "yaml"
    """How a tool's result is written for the policy to read."""
    max_turns: int = Field(default=AGENTDOJO_TURNS, gt=0)
    """Most actions of the policy in one episode. AgentDojo's own pipeline allows 16."""
    defense: list[DefenseChoice] = Field(
        default_factory=list[DefenseChoice], json_schema_extra={"takes": "text, mapping, or a list of them"}
    )
    """A defense: the name of a defense of AgentDojo's, or the import path of your own. To give it arguments,
    write `{id: …, args: {…}}`. Defenses in a list are applied in order. Null or empty: none."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or cast(dict[str, Any], data).get("preset") is None:
            return cast(object, data)
        given = cast(dict[str, Any], data)
        fixed = [name for name in PipelineSettings.model_fields if name != "preset" and name in given]
        if given["preset"] not in PRESETS:
            raise ValueError(f"preset: there is no {given['preset']!r}; there are {', '.join(PRESETS)}")
        if fixed:
            raise ValueError(
                f"preset: {given['preset']!r} fixes {', '.join(fixed)}; leave out one or the other"
            )
        return {**given, **PRESETS[given["preset"]]}

    @field_validator("defense", mode="before")
    @classmethod
    def _list_choices(cls, value: Any) -> Any:
        choices = cast(list[Any], value) if isinstance(value, list) else [] if value is None else [value]
        return [{"id": choice} if isinstance(choice, str) else choice for choice in choices]
