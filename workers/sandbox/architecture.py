"""Whether an engine can run an image that it has. It imports nothing that environments need."""

from typing import Any


def describe_other_architecture(api: Any, image: str, found: dict[str, Any]) -> str | None:
    """Says what is wrong, and how to mend it, if an image is for another architecture than the engine's.

    Args:
        api: The engine's client, of the docker package's low-level kind.
        image: The image's name.
        found: What the engine knows of it.
    """
    theirs, ours = found.get("Architecture", ""), str(api.version().get("Arch", ""))
    if not theirs or not ours or theirs == ours:
        return None
    return (
        f"sandbox.image: {image} is for {theirs}, and this node's engine runs {ours}. Build it for that, or "
        f"`docker pull --platform linux/{ours} {image}`"
    )
