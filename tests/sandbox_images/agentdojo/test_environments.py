"""The environments a session gets are those that AgentDojo itself would build."""

import random
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import Annotated, Any

import pytest
import yaml
from agentdojo.functions_runtime import FunctionsRuntime, TaskEnvironment
from agentdojo.task_suite.load_suites import _SUITES
from agentdojo.task_suite.task_suite import TaskSuite
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, computed_field, field_validator

from sandbox_images.agentdojo.attacks import AttackCache
from sandbox_images.agentdojo.environments import EnvironmentCache
from sandbox_images.agentdojo.loaded_suite import LoadedSuite
from sandbox_images.agentdojo.state import StateTracker
from sandbox_images.tool_host.toolset import ToolsetError
from tests.helpers.agentdojo import SUITES, VERSION, as_json, mutable_parts, suites
from tests.helpers.own.own_suite import Notebook, NotesEnvironment
from tests.helpers.own.own_suite import suite as own_suite
from tests.helpers.patches import patched

pytestmark = pytest.mark.slow

ATTACKS = ("important_instructions", "tool_knowledge", "direct")
PAIRS_OF_A_LARGE_SUITE = 30
PAYLOADS = [
    'She said "hello", and left.',
    '"',
    '""',
    '\\"',
    "back\\slash \\n \\x41 \\u263a \\",
    "\\",
    "\\q",
    "two\nlines",
    "\n\n---\nnew: document",
    "\n--- \n",
    "\n...\n",
    "\tindented\n    more",
    "trailing space \n next ",
    "{braces} {0} {} {{double}}",
    "{injection_bill_text}",
    "ünïcödé ☺ 🙂 \u2028\u2029\u0085 \ufeff",
    "a: b\n- c\n# d",
    "'single' `back` %percent @at &anchor *alias !tag |",
    "\0",
    "\x07",
    "\x7f",
    "\ud83d",
    "\ufffe",
    "",
    " ",
    "null",
    "x" * 5000,
]


@cache
def suite(name: str, version: str = VERSION) -> TaskSuite:
    return suites(version)[name]


@cache
def environments(name: str, version: str = VERSION) -> EnvironmentCache:
    return EnvironmentCache(suite(name, version))


def outcome(build: Callable[[dict[str, str]], TaskEnvironment], injections: dict[str, str]) -> Any:
    """What comes of building an environment: the environment, or the type of the error."""
    try:
        return build(injections)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same
        return type(error)


def assert_same(name: str, injections: dict[str, str], version: str = VERSION) -> None:
    expected = outcome(suite(name, version).load_and_inject_default_environment, injections)
    built = outcome(environments(name, version).build, injections)
    assert built == expected
    if isinstance(expected, TaskEnvironment):
        assert as_json(built) == as_json(expected)
        assert built.model_fields_set == expected.model_fields_set
        environment, before = environments(name, version).pair(injections)
        assert environment == before == expected
        assert environments(name, version).copy(injections) == expected


def canaries(name: str) -> dict[str, str]:
    return {vector: f"<CANARY---{vector}--->" for vector in suite(name).get_injection_vector_defaults()}


def pairs(name: str) -> list[tuple[str, str]]:
    """All pairs of a small suite, a sample of a large one's."""
    found = [
        (user, injection) for user in suite(name).user_tasks for injection in suite(name).injection_tasks
    ]
    if name in ("banking", "slack"):
        return found
    return random.Random(name).sample(found, PAIRS_OF_A_LARGE_SUITE)


def injected(name: str, attacks: tuple[str, ...]) -> Iterator[dict[str, str]]:
    cached = AttackCache(_quick(name))
    for number, (user_task, injection_task) in enumerate(pairs(name)):
        try:
            yield cached.injections(attacks[number % len(attacks)], "local", user_task, injection_task)
        except ToolsetError as error:
            assert "not injectable" in str(error)


@cache
def _quick(name: str) -> TaskSuite:
    quick = suites()[name]
    quick.load_and_inject_default_environment = environments(name).copy  # type: ignore[method-assign]
    return quick


@pytest.mark.parametrize("version", sorted(_SUITES))
@pytest.mark.parametrize("name", SUITES)
def test_default_environment_is_agentdojos_in_every_version(name: str, version: str) -> None:
    assert_same(name, {}, version)


@pytest.mark.parametrize("name", SUITES)
def test_environment_with_canaries_is_agentdojos(name: str) -> None:
    assert_same(name, canaries(name))
    vector, canary = next(iter(canaries(name).items()))
    assert_same(name, {vector: canary})


@pytest.mark.parametrize("name", SUITES)
def test_no_environment_is_built_the_slow_way_for_want_of_knowledge(name: str) -> None:
    assert environments(name)._scalars
    assert not environments(name)._loads_itself
    vectors = frozenset().union(*(scalar.vectors for scalar in environments(name)._scalars or []))
    assert vectors == set(canaries(name))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["banking", "slack"])
def test_environment_under_attack_is_agentdojos_for_every_pair_of_a_small_suite(
    name: str, attack: str
) -> None:
    checked = 0
    for injections in injected(name, (attack,)):
        assert_same(name, injections)
        checked += 1
    assert checked > 60


@pytest.mark.parametrize("name", ["workspace", "travel"])
def test_environment_under_attack_is_agentdojos_for_a_sample_of_a_large_suite(name: str) -> None:
    checked = [assert_same(name, injections) for injections in injected(name, ATTACKS)]
    assert len(checked) > PAIRS_OF_A_LARGE_SUITE / 2


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: ascii(payload)[:20])
@pytest.mark.parametrize("name", ["banking", "slack"])
def test_payload_that_yaml_might_misread_is_read_as_agentdojo_reads_it(name: str, payload: str) -> None:
    vectors = sorted(canaries(name))
    assert_same(name, {vectors[0]: payload})
    assert_same(name, dict.fromkeys(vectors, f"before{payload}after"))


def test_payload_that_breaks_the_yaml_is_agentdojos_error() -> None:
    with pytest.raises(yaml.YAMLError):
        environments("banking").build({"injection_bill_text": '" broken: ['})


@settings(deadline=None, max_examples=100)
@given(
    first=st.text() | st.text(st.sampled_from("\"\\\n\t\r {}[]:-#&*!|>%@`,?'…\x85\u2028 ab0")),
    second=st.text(max_size=5),
)
def test_any_payload_is_read_as_agentdojo_reads_it(first: str, second: str) -> None:
    assert_same("banking", {"injection_bill_text": first, "injection_incoming_transaction": second})


@pytest.mark.parametrize("name", SUITES)
def test_unknown_vector_is_agentdojos_error(name: str) -> None:
    assert outcome(environments(name).build, {"nothing": "x"}) is ValueError
    assert outcome(environments(name).build, {**canaries(name), "nothing": "x"}) is ValueError


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("with_injections", [False, True])
def test_what_tools_change_and_what_it_is_compared_with_share_nothing(
    name: str, with_injections: bool
) -> None:
    injections = canaries(name) if with_injections else {}
    environment, before = environments(name).pair(injections)
    assert not mutable_parts(environment).keys() & mutable_parts(before).keys()


@pytest.mark.parametrize("name", SUITES)
def test_session_can_inherit_all_that_its_injections_do_not_touch(name: str) -> None:
    vector, canary = next(iter(canaries(name).items()))
    environment, _ = environments(name).pair({vector: canary})
    touched = {scalar.path[0] for scalar in environments(name)._scalars or [] if vector in scalar.vectors}
    default = environments(name).default
    for field in type(environment).model_fields:
        assert (getattr(environment, field) is getattr(default, field)) == (field not in touched)


@pytest.mark.parametrize("name", SUITES)
def test_copy_shares_nothing_with_the_default(name: str) -> None:
    default = mutable_parts(environments(name).default).keys()
    for injections in ({}, canaries(name)):
        assert not mutable_parts(environments(name).copy(injections)).keys() & default


@pytest.mark.parametrize("name", SUITES)
def test_ground_truth_in_an_environment_changes_no_other(name: str) -> None:
    cached = EnvironmentCache(suite(name))  # its default is changed here, as it is in a session's own process
    runtime = FunctionsRuntime(suite(name).tools)
    environment, before = cached.pair({})
    changed = False
    for task in suite(name).user_tasks.values():
        for call in task.ground_truth(environment):
            runtime.run_function(environment, call.function, call.args)
        changed = changed or environment != before
    assert changed
    assert before == environments(name).default
    assert cached._reference == environments(name).default


class Counted(NotesEnvironment):
    """Counts its notes when it is made, after all of its fields."""

    count: int = 0

    def model_post_init(self, context: Any) -> None:
        self.count = sum(len(text) for text in self.notebook.notes.values())


class Checked(NotesEnvironment):
    """Has a field that is made of another one."""

    titles: str = Field(default="", validate_default=True)

    @field_validator("titles", mode="after")
    @classmethod
    def _of_notes(cls, value: str, info: ValidationInfo) -> str:
        return ",".join(info.data["notebook"].notes.values())


def _join_notes(value: str, info: ValidationInfo) -> str:
    return ",".join(info.data["notebook"].notes.values())


class Nested(NotesEnvironment):
    """Has a validator within a field's type, which is told of the other fields."""

    titles: Annotated[str, AfterValidator(_join_notes)] | None = Field(default="", validate_default=True)


class Frozen(NotesEnvironment):
    """Has fields that cannot be set."""

    model_config = ConfigDict(frozen=True)


class Renamed(TaskEnvironment):
    """Has a field of another name than its data."""

    pages: Notebook = Field(alias="notebook")


class Computed(NotesEnvironment):
    """Has a part that is made of its fields, once."""

    @computed_field
    @cached_property
    def titles(self) -> list[str]:
        return list(self.notebook.notes.values())


class Open(NotesEnvironment):
    """Takes what else its data have."""

    model_config = ConfigDict(extra="allow")


class Sharing(TaskSuite[NotesEnvironment]):
    """Loads environments in a way of its own: always the same one."""

    kept: Any = None

    def load_and_inject_default_environment(self, injections: dict[str, str]) -> NotesEnvironment:
        if Sharing.kept is None:
            Sharing.kept = super().load_and_inject_default_environment({})
        Sharing.kept.notebook.notes["loaded"] = injections.get("injection_shopping", "by itself")
        return Sharing.kept


def own(kind: type[TaskSuite], environment_type: type[TaskEnvironment]) -> TaskSuite:
    return kind("notes", environment_type, own_suite.tools, data_path=own_suite.data_path)


@pytest.mark.parametrize(
    ("kind", "environment_type"),
    [
        *((TaskSuite, kind) for kind in (Counted, Checked, Nested, Frozen, Renamed, Computed, Open)),
        (Sharing, NotesEnvironment),
    ],
)
def test_suite_that_does_something_of_its_own_loads_its_environments_itself(
    kind: type[TaskSuite], environment_type: type[TaskEnvironment]
) -> None:
    found = LoadedSuite(VERSION, own(kind, environment_type)).environments
    (vector,) = own(kind, environment_type).get_injection_vector_defaults()
    for text in ("short", "a longer text"):
        expected = own(kind, environment_type).load_and_inject_default_environment({vector: text})
        expected = expected.model_copy(deep=True)
        environment, before = found.pair({vector: text})
        assert environment == before == found.fresh({vector: text}) == expected
        assert not mutable_parts(environment).keys() & mutable_parts(before).keys()


def test_suite_that_was_given_a_loader_of_its_own_uses_it() -> None:
    given = own(TaskSuite, NotesEnvironment)
    (vector,) = given.get_injection_vector_defaults()
    load = given.load_and_inject_default_environment
    given.load_and_inject_default_environment = (  # type: ignore[method-assign]
        lambda injections: load({name: text.upper() for name, text in injections.items()})
    )
    assert "LOUD" in str(EnvironmentCache(given).build({vector: "loud"}))


@pytest.mark.parametrize("environment_type", [NotesEnvironment, Counted, Computed, Open])
def test_patch_has_all_that_changed(environment_type: type[TaskEnvironment]) -> None:
    loaded = LoadedSuite(VERSION, own(TaskSuite, environment_type))
    (vector,) = loaded.suite.get_injection_vector_defaults()
    environment, _ = loaded.environments.pair({vector: "go there"})
    tracker = StateTracker(loaded.base_state, environment)
    state = patched(loaded.base_state.json, tracker.first_patch())
    assert state == as_json(environment)
    vars(environment)["notebook"].notes["new"] = "text"
    vars(environment).pop("titles", None)  # what was computed once is computed anew
    if environment.model_extra is not None:
        environment.model_extra["found"] = 5
    state = patched(state, tracker.patch({"notebook"}))
    assert state == as_json(environment)
    assert state["notebook"]["notes"]["new"] == "text"


def test_plain_suite_of_ones_own_needs_no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    suite_of_ones_own = own(TaskSuite, NotesEnvironment)
    found = EnvironmentCache(suite_of_ones_own)
    (vector,) = suite_of_ones_own.get_injection_vector_defaults()
    monkeypatch.setattr(found, "_load", None)
    assert "quick" in str(found.build({vector: "quick"}))
