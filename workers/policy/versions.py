"""How requests name a version of the policy's weights, and how answers do."""

HEADER = "x-kumite-model"
"""Of an answer whose body has no place that clients read: the model that gave it, by version."""


def version_name(version: int) -> str:
    """What a version is called after the colon of the model's name."""
    return f"v{version}"


def model_name(model: str, version: int | None) -> str:
    """What to call a version of a model in a request; 0 is the model that was there first."""
    return f"{model}:{version_name(version)}" if version else model


def parse_version(named: str | None, model: str) -> int | None:
    """The version of a model that a name names; None if it names none, or another model."""
    name, _, version = (named or "").rpartition(":v")
    return int(version) if name == model and version.isdecimal() else None
