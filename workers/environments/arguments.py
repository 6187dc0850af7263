"""`environment.args` of the bundled environments: checked, and what is wrong with them in words."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from workers.errors import EnvironmentLoadError
from workers.settings import Settings

_Settings = TypeVar("_Settings", bound=Settings)


def check_arguments(model: type[_Settings], arguments: Mapping[str, Any], *section: str) -> _Settings:
    """The settings that arguments are.

    Args:
        model: What they should be.
        arguments: What was given.
        *section: Where in `environment.args` that was; nothing for the whole of it.

    Raises:
        EnvironmentLoadError: They are not what they should be.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise EnvironmentLoadError(
            "; ".join(_describe_error(entry, section, model) for entry in error.errors())
        ) from error


def check_distinct(values: list[Any] | None) -> list[Any] | None:
    """A list argument as it is, for a validator: what is in it twice would be played twice under one name.

    Raises:
        ValueError: Something is.
    """
    if values is not None:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value!r} is in it more than once; name it once")
    return values


def _describe_error(entry: Any, section: tuple[str, ...], model: type[Settings]) -> str:
    if entry["type"] == "extra_forbidden":
        name = str(entry["loc"][-1])
        known = _find_model(model, entry["loc"][:-1])
        close = difflib.get_close_matches(name, known, n=1)
        place = ".".join(map(str, ("environment.args", *section, *entry["loc"])))
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}" if known else ""
        return f"{place}: there is no such key{hint}"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "value_error" and not entry["loc"]:  # it is about several arguments, and names them
        return f"environment.args.{message}"
    return (
        f"environment.args.{'.'.join(map(str, (*section, *entry['loc'])))}: {message}, got {entry['input']!r}"
    )


def _find_model(model: type[Settings], path: tuple[Any, ...]) -> list[str]:
    """Keys of the settings at a path within others; none where there are no settings."""
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field is not None else []
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
