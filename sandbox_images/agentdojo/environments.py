"""AgentDojo's environments, equal to those it builds itself, from a cache.

AgentDojo formats its injections into a suite's YAML text and parses and validates the whole of it for
every episode: 77 ms for the workspace suite, most of it PyYAML's pure-Python loader. Here the text is
parsed once; an injection touches a few quoted scalars, so only those are parsed again, and only the
top-level fields they lie in are validated again.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import yaml
from agentdojo.functions_runtime import TaskEnvironment
from agentdojo.task_suite.task_suite import TaskSuite, read_suite_file, validate_injections

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class _InjectedScalar:
    """A quoted scalar of the suite's text that holds placeholders."""

    path: tuple[str | int, ...]
    text: str
    vectors: frozenset[str]


class EnvironmentCache:
    """One suite's environments.

    Where it cannot be told that a field of an environment depends on nothing but itself, each environment is
    loaded by the suite itself: with a loader of the suite's own, and with an environment type that does
    something of its own when it is made (`model_post_init`, validators of the whole or of a field).

    Args:
        suite: The suite, of the benchmark version that its tasks are taken from.
    """

    def __init__(self, suite: TaskSuite) -> None:
        self._suite = suite
        self._type: type[TaskEnvironment] = suite.environment_type
        self._load = suite.load_and_inject_default_environment
        self._defaults: dict[str, str] = suite.get_injection_vector_defaults()
        self._loads_itself = not _fields_are_independent(suite)
        self._data: dict[str, Any] = {}
        self._scalars: list[_InjectedScalar] | None = None
        if not self._loads_itself:
            text = read_suite_file(suite.name, "environment.yaml", suite.data_path)
            self._data = yaml.load(text.format(**self._defaults), _Loader)
            self._scalars = _find_injected_scalars(text, self._defaults)
        self.default: TaskEnvironment = self._load({}).model_copy(deep=True)
        self._reference: TaskEnvironment = self._load({}).model_copy(deep=True)
        self._untouched: TaskEnvironment = self._load({}).model_copy(deep=True)

    def pair(self, injections: dict[str, str]) -> tuple[TaskEnvironment, TaskEnvironment]:
        """Makes two equal environments with these injections: one for tools to change, one to compare with.

        The first shares what the injections do not touch with `default`, the second with a copy of it
        that was made before any fork: a session need not copy what it can inherit.

        Raises:
            ValueError: An injection names a vector that the suite does not have.
            yaml.YAMLError: An injection breaks AgentDojo's template, as it does in AgentDojo.
        """
        environment = self.build(injections)
        if self._loads_itself:
            return environment, environment.model_copy(deep=True)
        before = self._reference.model_copy()
        for name in type(environment).model_fields:
            value = getattr(environment, name)
            if value is not getattr(self.default, name):
                setattr(before, name, deepcopy(value))
        return environment, before

    def build(self, injections: dict[str, str]) -> TaskEnvironment:
        """Makes the environment with these injections. It shares what they do not touch with `default`.

        Raises:
            ValueError: An injection names a vector that the suite does not have.
            yaml.YAMLError: An injection breaks AgentDojo's template, as it does in AgentDojo.
        """
        return self._inject(self.default, injections)

    def fresh(self, injections: dict[str, str]) -> TaskEnvironment:
        """Makes the environment with these injections, as it is before any tool or check has seen it.

        Raises:
            ValueError: An injection names a vector that the suite does not have.
            yaml.YAMLError: An injection breaks AgentDojo's template, as it does in AgentDojo.
        """
        return self._inject(self._untouched, injections).model_copy(deep=True)

    def copy(self, injections: dict[str, str]) -> TaskEnvironment:
        """Makes the environment with these injections, which shares nothing."""
        return self.build(injections).model_copy(deep=True)

    def _inject(self, default: TaskEnvironment, injections: dict[str, str]) -> TaskEnvironment:
        validate_injections(injections, self._defaults)
        if self._loads_itself:
            return self._load(injections).model_copy(deep=True)
        values = {**self._defaults, **injections}
        changed = {vector for vector, value in values.items() if value != self._defaults[vector]}
        if not changed:
            return default.model_copy()
        if self._scalars is None:
            return self._load(injections)
        data = self._data
        fields: set[str] = set()
        for scalar in self._scalars:
            if not scalar.vectors & changed:
                continue
            # A quote would end the scalar, and what follows be read as YAML: AgentDojo's own way then.
            if any('"' in values[vector] for vector in scalar.vectors):
                return self._load(injections)
            try:
                value = yaml.load(scalar.text.format(**values), _Loader)
            except (yaml.YAMLError, UnicodeError):
                return self._load(injections)
            data = _replace_at(data, scalar.path, value)
            fields.add(str(scalar.path[0]))
        environment = default.model_copy()
        for name in fields:
            self._type.__pydantic_validator__.validate_assignment(environment, name, data[name])
        return environment


def _fields_are_independent(suite: TaskSuite) -> bool:
    """Says whether a field of a suite's environment can be validated without the others."""
    loader = suite.load_and_inject_default_environment  # a suite may have one that its class has not
    if getattr(loader, "__func__", None) is not TaskSuite.load_and_inject_default_environment:
        return False
    kind: type[TaskEnvironment] = suite.environment_type
    decorators = kind.__pydantic_decorators__
    return not (
        decorators.model_validators
        or decorators.root_validators
        or decorators.field_validators
        or decorators.validators
        or decorators.computed_fields
        or kind.__pydantic_post_init__
        or kind.__private_attributes__
        or kind.__init__ is not TaskEnvironment.__init__
        or kind.__setattr__ is not TaskEnvironment.__setattr__
        or kind.model_validate.__func__ is not TaskEnvironment.model_validate.__func__
        or kind.model_config.get("extra") == "allow"
        or kind.model_config.get("frozen")
        or any(
            field.metadata
            or field.frozen
            or field.alias is not None
            or field.validation_alias is not None
            or getattr(field, "default_factory_takes_validated_data", False)
            for field in kind.model_fields.values()
        )
        or _reads_other_fields(kind.__pydantic_core_schema__)
    )


def _reads_other_fields(schema: Any, of_the_environment: bool = True) -> bool:
    """Says whether a validator within a field's type is told of the fields beside it.

    What is within a model of its own is told of that one's fields alone.
    """
    if isinstance(schema, list | tuple):
        parts = cast(Sequence[Any], schema)
        return any(_reads_other_fields(part, of_the_environment) for part in parts)
    if not isinstance(schema, dict):
        return False
    known = cast(dict[str, Any], schema)
    kind = known.get("type")
    if kind in ("model", "dataclass", "typed-dict") and not of_the_environment:
        return False
    if str(kind).startswith("function-") and known.get("function", {}).get("type") == "with-info":
        return True
    within = of_the_environment and kind != "model"
    parts = [part for name, part in known.items() if name not in ("metadata", "serialization")]
    return any(_reads_other_fields(part, within) for part in parts)


def _find_injected_scalars(text: str, defaults: dict[str, str]) -> list[_InjectedScalar] | None:
    """Where the placeholders are; None when they are anywhere but in double-quoted values."""
    found: list[_InjectedScalar] = []

    def visit(node: yaml.Node, path: tuple[str | int, ...]) -> bool:
        if isinstance(node, yaml.MappingNode):
            return all(
                isinstance(key, yaml.ScalarNode)
                and not vectors_in(key)
                and visit(value, (*path, key.value.format(**defaults)))
                for key, value in node.value
            )
        if isinstance(node, yaml.SequenceNode):
            return all(visit(item, (*path, index)) for index, item in enumerate(node.value))
        vectors = vectors_in(node)
        if vectors:
            found.append(_InjectedScalar(path, raw(node), vectors))
        return not vectors or (isinstance(node, yaml.ScalarNode) and node.style == '"' and bool(path))

    def raw(node: yaml.Node) -> str:
        return text[node.start_mark.index : node.end_mark.index]

    def vectors_in(node: yaml.Node) -> frozenset[str]:
        return frozenset(vector for vector in defaults if "{" + vector + "}" in raw(node))

    tree = yaml.compose(text, yaml.SafeLoader)
    return found if tree is not None and visit(tree, ()) else None


def _replace_at(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`data` with the value at `path` replaced; only the containers along the path are copied."""
    if not path:
        return value
    copied = data.copy()
    copied[path[0]] = _replace_at(data[path[0]], path[1:], value)
    return copied
