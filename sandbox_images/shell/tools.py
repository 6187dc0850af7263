"""The tools as the policy is told of them, and the check of what it calls them with."""

from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "number": (int, float)}


def tool_schemas(default_timeout: float, max_timeout: float) -> list[dict[str, Any]]:
    """Name, description and parameters (JSON schema) of each tool.

    Args:
        default_timeout: Seconds that a command may take when the policy does not say.
        max_timeout: Most seconds that it may ask for.
    """
    timeout = {
        "type": "number",
        "description": f"Seconds it may take: {default_timeout:g} unless given, at most {max_timeout:g}.",
    }
    path = {"type": "string", "description": "Path of the file, relative to the workspace."}
    return [
        _make_schema(
            "bash",
            "Runs a command in a bash shell that lasts for the whole session: the working directory, "
            "variables and functions stay from call to call. Gives stdout and stderr together, and the exit "
            "code. There is no input: stdin is empty.",
            {"command": {"type": "string", "description": "The command, of any number of lines."}},
            {"timeout": timeout},
        ),
        _make_schema(
            "python",
            "Runs a Python program in a fresh interpreter, in the shell's working directory and environment. "
            "Gives stdout and stderr together, and the exit code.",
            {"code": {"type": "string", "description": "The program's source."}},
            {"timeout": timeout},
        ),
        _make_schema(
            "read_file",
            "Reads a text file, or some lines of it.",
            {"path": path},
            {
                "start": {"type": "integer", "description": "First line to read, counted from 1."},
                "lines": {"type": "integer", "description": "How many lines to read."},
            },
        ),
        _make_schema(
            "write_file",
            "Writes a text file, over one that is there, and makes the folders on the way to it.",
            {"path": path, "content": {"type": "string", "description": "All of the file's text."}},
        ),
        _make_schema(
            "edit_file",
            "Replaces a text in a file by another.",
            {
                "path": path,
                "old": {"type": "string", "description": "The text to replace: it must occur exactly once."},
                "new": {"type": "string", "description": "The text to put in its place."},
            },
        ),
        _make_schema(
            "list_files",
            "Lists all files and folders below a folder of the workspace.",
            {},
            {"path": {"type": "string", "description": "The folder: the whole workspace unless given."}},
        ),
    ]


def find_argument_error(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """What is wrong with a call's arguments, in words for the policy to read; None when nothing is."""
    tool, properties = schema["name"], schema["parameters"]["properties"]
    for name in schema["parameters"]["required"]:
        if name not in arguments:
            return f"{tool} needs the argument {name}"
    for name, value in arguments.items():
        if name not in properties:
            return f"{tool} has no argument {name!r}; it has {', '.join(properties)}"
        wanted = properties[name]["type"]
        if not isinstance(value, _TYPES[wanted]) or isinstance(value, bool):
            return f"{tool}: {name} must be of type {wanted}, got {type(value).__name__}"
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"{tool}: {name} is not valid Unicode text"
            if "\0" in value and name not in ("content", "old", "new"):
                return f"{tool}: {name} must not have NUL characters in it"
    return None


def _make_schema(
    name: str, description: str, required: dict[str, Any], optional: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {**required, **(optional or {})},
            "required": list(required),
            "additionalProperties": False,
        },
    }
