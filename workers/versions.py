"""How requests name a version of the policy's weights."""


def name_of(version: int) -> str:
    """What a version is called after the colon of the model's name."""
    return f"v{version}"


def model_name(model: str, version: int | None) -> str:
    """What to call a version of a model in a request; 0 is the base model."""
    return f"{model}:{name_of(version)}" if version else model
