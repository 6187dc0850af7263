"""A run config from a YAML file and `--set key=value` overrides."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from cluster.config import AdapterPolicy, EndpointPolicy, OraclePolicy, RunConfig, VllmPolicy
from cluster.config.values import check_values
from cluster.errors import ConfigError

_SomePolicy = TypeVar("_SomePolicy", bound=VllmPolicy | EndpointPolicy | AdapterPolicy | OraclePolicy)

_KINDS = ("vllm", "endpoint", "oracle", "adapter")


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads and checks a config.

    Args:
        path: The YAML file.
        overrides: `dotted.key=value`, the value as YAML.

    Raises:
        ConfigError: The file cannot be read, or a field is not what it should be; all such fields are named.
    """
    fields = read_fields(path, overrides)
    if fields.pop("matrix", None) is not None:
        raise ConfigError(
            f"the config {path} has a `matrix`, which only `kumite run` and `kumite tasks` accept; give "
            "the `config.yaml` in the folder of one of its runs"
        )
    return build_config(path, fields)


def read_fields(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The keys of a config's file, with overrides, not checked yet.

    Raises:
        ConfigError: The file cannot be read, or is no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config {path} is not text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the config {path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"the config {path} must be a mapping, got {type(data).__name__}")
    fields = cast(dict[str, Any], data)
    for override in overrides:
        _apply_override(fields, override)
    return fields


def build_config(path: Path, fields: dict[str, Any]) -> RunConfig:
    """The config that a file's keys make.

    Raises:
        ConfigError: A field is not what it should be; all such fields are named.
    """
    try:
        config = _resolve_paths(RunConfig.model_validate(fields), path.parent)
        check_values(config)
        return config
    except ValidationError as error:
        complaints = "\n".join(f"  {_describe_error(entry)}" for entry in error.errors())
        raise ConfigError(f"the config {path} has errors:\n{complaints}") from error


def set_drain_seconds(config: RunConfig, seconds: float) -> RunConfig:
    """The config with another `episode.drain_seconds`.

    Raises:
        ConfigError: They are below 0.
    """
    if not seconds >= 0:
        raise ConfigError(f"--drain: got {seconds:g}; give a number of seconds, at least 0")
    episode = config.episode.model_copy(update={"drain_seconds": seconds})
    return config.model_copy(update={"episode": episode})


def dump_config(config: RunConfig) -> str:
    """A config as YAML text that `load_config` reads unchanged."""
    fields = config.model_dump(mode="json")
    return yaml.dump(fields, Dumper=_ExactDumper, sort_keys=False, allow_unicode=True)


class _ExactDumper(yaml.SafeDumper):
    """Quotes text with a line break that only Unicode takes for one, which would be read as a space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_ExactDumper.add_representer(str, _ExactDumper.represent_str)


def _resolve_paths(config: RunConfig, folder: Path) -> RunConfig:
    """The config with absolute paths, which a resumption from another folder needs.

    Those of the environment are relative to the config's folder, those of the policy to the working one.
    """
    environment = config.environment
    located: dict[str, object] = {"folder": (folder / (environment.folder or "")).resolve()}
    if environment.id.endswith(".py"):
        located["id"] = str((folder / environment.id).resolve())
    if environment.requirements is not None:
        located["requirements"] = _locate_requirements(environment.requirements, folder)
    if environment.wheels is not None:
        located["wheels"] = (folder / environment.wheels).resolve()
    tasks = environment.args.get("folder")
    if environment.id == "shell" and isinstance(tasks, str):
        located["args"] = {**environment.args, "folder": str((folder / tasks).resolve())}
    agent: Any = environment.args.get("agent")
    files: Any = cast(dict[str, Any], agent).get("files") if isinstance(agent, dict) else None
    if environment.id == "shell" and isinstance(files, dict):
        named = cast(dict[str, Any], files)
        paths = {name: str((folder / str(path)).resolve()) for name, path in named.items()}
        located["args"] = {
            **cast("dict[str, object]", located.get("args", environment.args)),
            "agent": {**cast(dict[str, Any], agent), "files": paths},
        }
    changes: dict[str, object] = {"environment": environment.model_copy(update=located)}
    changes["policy"] = _locate_policy(config.policy)
    changes["policies"] = {name: _locate_policy(policy) for name, policy in config.policies.items()}
    return config.model_copy(update=changes)


def _locate_policy(policy: _SomePolicy) -> _SomePolicy:
    """A policy, with its paths as absolute ones."""
    absolute: dict[str, object] = {}
    if isinstance(policy, VllmPolicy):
        given = {name: getattr(policy, name) for name in ("chat_template", "versions_folder")}
        absolute = {name: path.absolute() for name, path in given.items() if path is not None}
    elif isinstance(policy, AdapterPolicy) and "://" not in policy.path:
        absolute = {"path": str(Path(policy.path).expanduser().absolute())}
    return policy.model_copy(update=absolute)


def _locate_requirements(given: list[str] | str, folder: Path) -> list[str] | str:
    """Requirements, those among them that are paths as absolute ones."""

    def locate(entry: str, is_path: bool) -> str:
        return str((folder / entry).resolve()) if is_path else entry

    if isinstance(given, str):
        return locate(given, is_path=True)
    return [locate(entry, entry.startswith((".", "/", "~"))) for entry in given]


def _apply_override(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs a.b=value, got {override!r}")
    *parents, last = key.split(".")
    place = fields
    for parent in parents:
        step = place.setdefault(parent, {})
        if not isinstance(step, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section of the config, but {step!r}")
        place = cast(dict[str, Any], step)
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error


def _describe_error(entry: Any) -> str:
    """One field's error: its name, what was given, and what would be right."""
    path, kind = _split_kind([str(part) for part in entry["loc"]])
    name = ".".join(path) or "the config"
    given = entry["input"]
    match entry["type"]:
        case "missing":
            return f"{name}: is missing"
        case "extra_forbidden" if kinds := _kinds_with_key(path):
            return f"{name}: policy.kind `{kind}` has no such key, only {' and '.join(kinds)}; leave it out"
        case "extra_forbidden":
            close = difflib.get_close_matches(path[-1], _list_field_names(path[:-1]), n=1)
            hints = [
                *_find_misplaced_key(path),
                *close,
            ]  # the very name, in another section, before one like it
            hint = f"; did you mean {hints[0]}?" if hints else ""
            return f"{name}: there is no such key{hint}"
        case "union_tag_invalid" | "union_tag_not_found":
            kind = cast(dict[str, Any], given).get("kind") if isinstance(given, dict) else given
            right = "endpoint, adapter or vllm" if path[0] == "policies" else "vllm, endpoint or oracle"
            return f"{name}.kind: got {kind!r}; it must be {right}"
        case _:
            return f"{name}: {entry['msg'][0].lower()}{entry['msg'][1:]}; got {given!r}"


def _split_kind(path: list[str]) -> tuple[list[str], str | None]:
    """The path of a key, without the policy's kind that pydantic has in it; and that kind."""
    place = {"policy": 1, "policies": 2}.get(path[0]) if path else None
    if place is None or len(path) <= place or path[place] not in _KINDS:
        return path, None
    return [*path[:place], *path[place + 1 :]], path[place]


def _kinds_with_key(path: list[str]) -> list[str]:
    """The kinds of policy that have a key of `policy`, as text."""
    if len(path) != 2 or path[0] != "policy":
        return []
    schema = RunConfig.model_json_schema()
    kinds: dict[str, str] = schema["properties"]["policy"]["discriminator"]["mapping"]
    sections = {kind: schema["$defs"][place.rpartition("/")[2]] for kind, place in kinds.items()}
    return [f"`{kind}`" for kind, section in sections.items() if path[1] in section["properties"]]


def _find_misplaced_key(path: list[str]) -> tuple[str, ...]:
    """Where a key that is not in its section is a key: below that section first, then in others."""
    found = [place for place in _list_keys() if place[-1] == path[-1]]
    found.sort(key=lambda place: (place[: len(path) - 1] != path[:-1], place[0] != path[0], len(place)))
    return (".".join(found[0]),) if found else ()


def _list_keys() -> list[list[str]]:
    """Paths of all keys of a config, of every policy kind."""
    schema = RunConfig.model_json_schema()
    found: list[list[str]] = []

    def walk(place: dict[str, Any], path: list[str]) -> None:
        for name, node in place.get("properties", {}).items():
            if [*path, name] not in found:
                found.append([*path, name])
            for branch in _schema_branches(node, schema):
                walk(branch, [*path, name])

    walk(schema, [])
    return found


def _list_field_names(path: list[str]) -> list[str]:
    """Field names of the section at a path, of every policy kind where it leads into the policy."""
    schema = RunConfig.model_json_schema()
    places = [schema]
    for part in path:
        places = [
            branch
            for place in places
            for branch in _schema_branches(place.get("properties", {}).get(part, {}), schema)
        ]
    return [name for place in places for name in place.get("properties", {})]


def _schema_branches(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return [schema["$defs"][node["$ref"].rpartition("/")[2]]]
    options: list[dict[str, Any]] = node.get("oneOf") or node.get("anyOf") or []
    return [branch for option in options for branch in _schema_branches(option, schema)] or [node]
