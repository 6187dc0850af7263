"""What a tool has answered over MCP, as the content of a chat message."""

from typing import Any, cast


def to_chat_content(blocks: Any) -> str | list[dict[str, Any]]:
    """Text where all of it is text, as verifiers' own chat program has it.

    Args:
        blocks: The result's content, of MCP 1 or 2.
    """
    parts = [_to_part(block) for block in blocks]
    if not parts:
        return str(blocks)
    if all(part["type"] == "text" for part in parts):
        return "\n".join(cast(str, part["text"]) for part in parts)
    return parts


def _to_part(block: Any) -> dict[str, Any]:
    if block.type == "text":
        return {"type": "text", "text": block.text}
    if block.type == "image":
        kind: str = block.mimeType if hasattr(block, "mimeType") else block.mime_type
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{block.data}"}}
    return {"type": "text", "text": str(block)}
