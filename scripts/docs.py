"""Writes the reference pages of `docs/` from the models: `python -m scripts.docs`."""

import inspect
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.config import RunConfig
from cluster.dataset.arrow import DataType, pa
from cluster.dataset.schemas import EPISODES, STEP_KEYS, STEPS, arrow_fields
from cluster.dataset.sequences import SEQUENCES, Sequence
from cluster.observe.meter import MetricsLine, StageSeconds
from cluster.observe.metrics import METRICS
from cluster.observe.policy_use import PolicyUse
from cluster.plan.resume import CHANGEABLE_KEYS
from cluster.verify.report import RULES
from tests.helpers.planted_errors import ERRORS
from workers.endings import ENDINGS
from workers.environments.agentdojo.pipeline import PipelineSettings
from workers.environments.agentdojo.rewards import RewardSettings
from workers.environments.agentdojo.tasks import TaskSelection
from workers.environments.agents.settings import AgentArgs
from workers.environments.shell.shell_env import ShellArgs
from workers.gateway.limits import AgentLimits
from workers.policy.sampling_keys import SAMPLING_KEYS, Route, SamplingKey
from workers.records import EpisodeRecord, StepRecord
from workers.settings import Settings

FOLDER = Path(__file__).parent.parent / "docs"

_Model = TypeVar("_Model", bound=BaseModel)

_CONFIG_INTRO = """\
# The config file

A run is described by one YAML file. This page lists every key; `python -m scripts.docs` writes it from the
code that checks the file. An unknown key or a wrong value is an error before anything starts. Any key can
be set from the command line too: `kumite run CONFIG.yaml --set workers.max=4`. The value after `=` is YAML.
[dataset.md](dataset.md#what-a-resumption-compares) lists the keys that may change when a run is resumed.

## Matrix

With `matrix`, one config asks for several runs: one for each combination of the values.

```yaml
matrix:
  environment.args.attack: [direct, important_instructions]
  environment.args.defense: [null, tool_filter]     # null: as if the key were not there
```

`kumite run` plays them one after the other. Ray and the policy are started once, as long as `policy`, `ray`
and `workers` are the same. Each run has a folder of its own below one folder
(`attack=direct,defense=tool_filter`), and a table of all runs comes last. `kumite run --resume` with the
outer folder continues where it stopped. `kumite tasks` counts the tasks of each run.
[`kumite compare`](dataset.md#comparing-runs) compares them.
"""

_WORDS: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    Any: "anything",
    dict: "mapping",
    list: "list",
}
_STATES = {
    "state_id": "Id that an episode's `initial_state_id` names.",
    "state": "The environment's state, as JSON text.",
}


def config_page() -> str:
    """The text of `docs/config.md`."""
    return "\n".join([_CONFIG_INTRO, *_make_sections(RunConfig, "", "Top level", set())])


def dataset_page(page: str) -> str:
    """The text of `docs/dataset.md`: the page as it is, with its column tables made anew.

    Raises:
        ValueError: The page lacks the markers of a table.
    """
    keys = [
        (name, kind, f"As in `episodes`. {text}")
        for name, kind, text in _list_columns(EpisodeRecord, STEP_KEYS)
    ]
    tables = {
        "episodes": _column_table(_list_columns(EpisodeRecord, EPISODES.names)),
        "steps": _column_table([*keys, *_list_columns(StepRecord, STEPS.names)]),
        "sequences": _column_table(_list_columns(Sequence, SEQUENCES.names)),
        "states": _column_table((name, "string", meaning) for name, meaning in _STATES.items()),
    }
    checks = {
        "rules": _make_table(
            ("rule", "holds when"), [(f"`{rule}`", meaning) for rule, meaning in RULES.items()]
        ),
        "errors": _make_table(
            ("error", "kind of run", "rule", "found"),
            [(error.name, f"`{error.kind}`", f"`{error.rule}`", "yes") for error in ERRORS],
        ),
    }
    page = _replace_tables("docs/dataset.md", page, "columns", tables)
    page = _replace_tables(
        "docs/dataset.md", page, "resume", {"keys": ", ".join(f"`{key}`" for key in CHANGEABLE_KEYS)}
    )
    return _replace_tables("docs/dataset.md", page, "verify", checks)


def agentdojo_page(page: str) -> str:
    """The text of `docs/agentdojo.md`: the page as it is, with the tables of its arguments made anew.

    Raises:
        ValueError: The page lacks the markers of a table.
    """
    tables = {
        "tasks": _key_table(TaskSelection, "environment.args."),
        "pipeline": _key_table(PipelineSettings, "environment.args."),
        "rewards": _key_table(RewardSettings, "environment.args."),
    }
    return _replace_tables("docs/agentdojo.md", page, "args", tables)


def shell_page(page: str) -> str:
    """The text of `docs/shell.md`: the page as it is, with the table of its arguments made anew.

    Raises:
        ValueError: The page lacks the markers of a table.
    """
    return _replace_tables(
        "docs/shell.md", page, "args", {"shell": _key_table(ShellArgs, "environment.args.")}
    )


def agents_page(page: str) -> str:
    """The text of `docs/agents.md`: the page as it is, with the tables of its arguments made anew.

    Raises:
        ValueError: The page lacks the markers of a table.
    """
    tables = {"agent": _key_table(AgentArgs, ""), "limits": _key_table(AgentLimits, "limits.")}
    return _replace_tables("docs/agents.md", page, "args", tables)


def security_page(page: str) -> str:
    """The text of `docs/security.md`: the page as it is, with the table of endings made anew.

    Raises:
        ValueError: The page lacks the markers of the table.
    """
    rows = [(ending.what, ending.who, ending.outcome_text) for ending in ENDINGS]
    table = _make_table(("ending", "caused by", "recorded"), rows)
    return _replace_tables("docs/security.md", page, "endings", {"episode": table})


def observe_page(page: str) -> str:
    """The text of `docs/observe.md`: the page as it is, with the tables of what is measured made anew.

    Raises:
        ValueError: The page lacks the markers of a table.
    """
    measured = [
        (
            "<br>".join(f"`{each}`" for each in metric.exported(name)),
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for name, metric in METRICS.items()
    ]
    tables = {
        "line": _field_table(MetricsLine),
        "stage": _field_table(StageSeconds),
        "policy": _field_table(PolicyUse),
        "metrics": _make_table(("metric", "kind", "labels", "meaning"), measured),
    }
    return _replace_tables("docs/observe.md", page, "fields", tables)


def training_page(page: str) -> str:
    """The text of `docs/training.md`: the page as it is, with the table of sampling keys made anew.

    Raises:
        ValueError: The page lacks the markers of the table.
    """
    rows = [
        (
            f"`{key.name}`",
            _describe_fate(key, "per_turn"),
            _describe_fate(key, "exact"),
            _describe_fate(key, "endpoint"),
            key.instead if "refused" in (key.chat, key.exact) else "",
        )
        for key in SAMPLING_KEYS
    ]
    head = ("key", "`per_turn`", "`exact`", "endpoint", "where it is refused")
    return _replace_tables("docs/training.md", page, "sampling", {"keys": _make_table(head, rows)})


def make_pages() -> dict[Path, str]:
    """The generated pages, by path, as they should be."""
    names = ("dataset", "agentdojo", "shell", "security", "observe", "training", "agents")
    dataset, agentdojo, shell, security, observe, training, agents = (FOLDER / f"{name}.md" for name in names)
    return {
        FOLDER / "config.md": config_page(),
        dataset: dataset_page(dataset.read_text(encoding="utf-8")),
        agentdojo: agentdojo_page(agentdojo.read_text(encoding="utf-8")),
        shell: shell_page(shell.read_text(encoding="utf-8")),
        security: security_page(security.read_text(encoding="utf-8")),
        observe: observe_page(observe.read_text(encoding="utf-8")),
        training: training_page(training.read_text(encoding="utf-8")),
        agents: agents_page(agents.read_text(encoding="utf-8")),
    }


def main() -> None:
    """Rewrite the pages."""
    for path, text in make_pages().items():
        path.write_text(text, encoding="utf-8")


def _make_sections(model: type[Settings], path: str, title: str, seen: set[str]) -> Iterator[str]:
    """A section on a settings model, then one on each model inside it."""
    if title in seen:
        return
    seen.add(title)
    prefix = f"{path}." if path else ""
    yield f"## {title}\n"
    if path and model.__doc__:
        yield f"{inspect.cleandoc(model.__doc__)}\n"
    yield _key_table(model, prefix) + "\n"
    for name, info in model.model_fields.items():
        choices = list(models_in(info.annotation, Settings))
        for choice in choices:
            kind = f", kind {_describe_value(choice.model_fields['kind'])}" if len(choices) > 1 else ""
            yield from _make_sections(choice, f"{prefix}{name}", f"`{prefix}{name}`{kind}", seen)


def _describe_fate(key: SamplingKey, route: Route) -> str:
    """What becomes of a sampling key on a route, in words."""
    fate = key.fate(route)
    if fate == "template":
        return "told the template"
    if fate == "passed on" and route == "exact" and key.sent_as:
        return f"passed on as `{key.sent_as}`"
    if fate == "refused" and key.neutral:
        return f"refused, except {', '.join(f'`{json.dumps(value)}`' for value in key.neutral)}"
    return fate


def _key_table(model: type[Settings], prefix: str) -> str:
    rows = [
        (
            f"`{prefix}{name}`",
            _describe_value(info),
            _describe_default(info),
            _make_sentence(info.description),
        )
        for name, info in model.model_fields.items()
    ]
    return _make_table(("key", "value", "default", "meaning"), rows)


def _field_table(model: type[BaseModel]) -> str:
    rows = [(f"`{name}`", _make_sentence(info.description)) for name, info in model.model_fields.items()]
    return _make_table(("field", "meaning"), rows)


def _replace_tables(name: str, page: str, kind: str, tables: Mapping[str, str]) -> str:
    """A page with what stands between its markers replaced."""
    for title, table in tables.items():
        start, end = f"<!-- {kind}: {title} -->", f"<!-- /{kind}: {title} -->"
        before, found, rest = page.partition(start)
        _, also_found, after = rest.partition(end)
        if not found or not also_found:
            raise ValueError(f"{name} must have the markers {start} and {end}")
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


def models_in(annotation: Any, base: type[_Model]) -> Iterator[type[_Model]]:
    """The models that a type speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, base):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument, base)


def _describe_value(info: FieldInfo) -> str:
    """What a field takes, in words: its own, where it has some."""
    extra = cast(Any, info.json_schema_extra)
    if isinstance(extra, dict) and "takes" in extra:
        return str(cast(dict[str, Any], extra)["takes"])
    words = _describe_alternatives(info.annotation, info.metadata)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _describe_alternatives(annotation: Any, bounds: list[Any]) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part.metadata if isinstance(part, FieldInfo) else [part] for part in arguments[1:]]
        return _describe_alternatives(arguments[0], [*bounds, *(bound for part in inner for bound in part)])
    if any(models_in(annotation, Settings)):
        return ["a section, see below"]
    if origin is Literal:
        return [f"`{value}`" for value in arguments]
    if origin in (Union, UnionType):
        return [word for argument in arguments for word in _describe_alternatives(argument, bounds)]
    if annotation is NoneType:
        return ["null"]
    of = f" of {' or '.join(_describe_alternatives(arguments[0], []))}" if origin is list else ""
    limits = ", ".join(_describe_limits(bounds))
    return [f"{_WORDS[origin or annotation]}{of}{f' ({limits})' if limits else ''}"]


def _describe_limits(bounds: list[Any]) -> Iterator[str]:
    for bound in bounds:
        for attribute, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
            if getattr(bound, attribute, None) is not None:
                yield f"{words} {getattr(bound, attribute):g}"
        if getattr(bound, "pattern", None):
            yield f"matching `{bound.pattern}`"


def _describe_default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = cast(object, info.get_default(call_default_factory=True, validated_data={}))
    return "its own defaults" if isinstance(value, BaseModel) else f"`{json.dumps(value, default=str)}`"


def _list_columns(
    model: type[BaseModel],
    names: Collection[str],
    prefix: str = "",
    seen: dict[type[BaseModel], str] | None = None,
) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of these fields of a model, and of what is inside them.

    A model that comes up again is not spelled out again: its type says where it was.
    """
    seen = {} if seen is None else seen
    for field in arrow_fields(model):
        if field.name not in names:
            continue
        info = model.model_fields[field.name]
        path = f"{prefix}{field.name}"
        in_list = isinstance(field.type, pa.ListType)
        inner = next(models_in(info.annotation, BaseModel), None)
        words = _describe_arrow_type(field.type.value_type if in_list else field.type, info)
        if inner in seen:
            words += f" like `{seen[inner]}`"
        if in_list:
            words = f"list of {words}"
        yield path, f"{words} or null" if field.nullable else words, _make_sentence(info.description)
        if inner is not None and inner not in seen:
            path = f"{path}[]" if in_list else path
            seen[inner] = path
            yield from _list_columns(inner, inner.model_fields, f"{path}.", seen)


def _describe_arrow_type(kind: DataType, info: FieldInfo) -> str:
    if pa.types.is_struct(kind):
        return "struct"
    if "'format': 'json'" in repr(info):
        return "JSON text"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _column_table(columns: Iterable[tuple[str, str, str]]) -> str:
    return _make_table(
        ("column", "type", "meaning"), [(f"`{name}`", kind, text) for name, kind, text in columns]
    )


def _make_sentence(description: str | None) -> str:
    return re.sub(r"\s+", " ", description or "").strip()


def _make_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
