"""What a config may hold: what its copy in the run's folder gives back unchanged, and nothing else."""

import base64
import datetime
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.config.values import check_values
from cluster.dataset.run_folder import Target
from cluster.errors import ConfigError
from cluster.rollout_engine import RolloutEngine

_text = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "",
        "yes",
        "no",
        "1",
        "1e3",
        "0x1",
        "12:30:45",
        "2026-01-01",
        "=",
        "<<",
        "null",
        "~",
        "\x85",
        "\u2028",
        "\ufeff",
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)
_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=["L", "Cs"]), max_size=3)
    | st.binary(max_size=3)
    | st.dates()
    | st.datetimes()
    | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(
            st.text("ab1", max_size=2) | st.integers() | st.booleans() | st.none() | st.dates(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def config(args: dict[str, Any], extra: dict[str, Any] | None = None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "environment": {"id": "e", "args": args, "folder": "/x"},
            "policy": {
                "kind": "endpoint",
                "base_url": "http://a",
                "model": "m",
                "sampling": {"extra_body": extra or {}, "stop": list(extra or {})},
            },
        }
    )


def again(given: RunConfig) -> RunConfig:
    """A config as a resumption reads it."""
    with tempfile.TemporaryDirectory() as folder:
        Target(Path(folder) / "run", "run").make(given)
        return load_config(Path(folder) / "run" / "config.yaml")


def round_trip(args: dict[str, Any]) -> None:
    made = config(args, args)
    check_values(made)
    assert repr(again(made)) == repr(made), "to the type of each number"


def kept_or_refused(args: dict[str, Any]) -> None:
    made = config(args)
    try:
        check_values(made)
    except ConfigError:
        return
    assert repr(again(made)) == repr(made)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.dictionaries(_text, _values, max_size=4))
def test_a_config_is_the_same_after_its_run_is_taken_up(args: dict[str, Any]) -> None:
    round_trip(args)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("ab", max_size=2), _anything, max_size=3))
def test_what_would_not_be_the_same_is_refused(args: dict[str, Any]) -> None:
    kept_or_refused(args)


@pytest.mark.exhaustive
@settings(deadline=None, max_examples=5000)
@given(st.dictionaries(_text, _values, max_size=4))
def test_every_config_is_the_same_after_its_run_is_taken_up(args: dict[str, Any]) -> None:
    round_trip(args)


@pytest.mark.exhaustive
@settings(deadline=None, max_examples=5000)
@given(st.dictionaries(st.text("ab", max_size=2), _anything, max_size=3))
def test_everything_that_would_not_be_the_same_is_refused(args: dict[str, Any]) -> None:
    kept_or_refused(args)


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ("{sizes: {1: 3}}", r'environment\.args\.sizes: got the key 1, of type int; .*put it in quotes, "1"'),
        ("{since: 2026-01-01}", r'environment\.args\.since: got datetime.*give text, "2026-01-01"'),
        ("{a: [{at: 2026-01-01 10:00:00}]}", r'args\.a\.0\.at: .*give text, "2026-01-01T10:00:00"'),
        ("{capitals: {no: Oslo}}", r'args\.capitals: got the key False, of type bool; .*quotes, "no"'),
        ("{x: .nan}", r"args\.x: got nan; give a finite number, null or text"),
        ("{x: [-.inf]}", r"args\.x\.0: got -inf; give a finite number"),
        ("{x: !!binary aGk=}", r"args\.x: got b'hi', of type bytes; give text"),
        ("{x: !!set {a, b}}", r"args\.x: got \{.*of type set; give a list"),
        ("{{1: 2}: 3}", r"is not YAML"),
        ('{x: "\\ud800"}', r"args\.x: got '\\ud800', which is not valid Unicode"),
    ],
)
def test_what_is_refused_is_named_with_what_to_give(tmp_path: Path, yaml: str, complaint: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"environment: {{id: e, args: {yaml}}}\npolicy: {{kind: oracle}}\n")
    with pytest.raises(ConfigError, match=complaint):
        load_config(path)


def test_an_override_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("environment: {id: e}\npolicy: {kind: oracle}\n")
    with pytest.raises(ConfigError, match=r"environment\.args\.since: got datetime\.date"):
        load_config(path, ["environment.args.since=2026-01-01"])


def test_what_a_request_takes_is_looked_at_too() -> None:
    with pytest.raises(ConfigError, match=r"policy\.sampling\.extra_body\.bias: got the key 50256"):
        check_values(config({}, {"bias": {50256: -100}}))


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (("a",), "give a list"),
        (Path("/data"), "give text, '/data'"),
        (base64.b64decode("aGk="), "base64"),
        (datetime.time(10, 0), '"10:00:00"'),
        (object(), "give text, a number, true, false, null, a list or a mapping of these"),
    ],
)
def test_a_trainers_config_is_looked_at_before_anything_starts(
    value: Any, instead: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"environment\.args\.x: got .*{instead}"):
        RolloutEngine(config({"x": value}), tmp_path / "run")


def test_what_contains_itself_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ConfigError, match="more than 64 levels deep"):
        check_values(config({"x": deep}))


def test_a_limit_that_is_none_may_be_infinite() -> None:
    fields = config({}).model_dump() | {"workers": {"idle_seconds": math.inf}}
    made = RunConfig.model_validate(fields)
    check_values(made)
    assert again(made).workers.idle_seconds == math.inf


def test_policies_of_seats_are_the_same_after_the_run_is_taken_up() -> None:
    other = {
        "kind": "endpoint",
        "base_url": "http://127.0.0.1:1/v1",
        "model": "m",
        "sampling": {"top_p": 0.5},
    }
    made = RunConfig.model_validate(config({}).model_dump() | {"policies": {"user": other}})
    check_values(made)
    assert again(made) == made
    other["sampling"] = {"extra_body": {"day": datetime.date(2026, 1, 1)}}
    made = RunConfig.model_validate(config({}).model_dump() | {"policies": {"user": other}})
    with pytest.raises(ConfigError, match=r"policies\.user\.sampling\.extra_body\.day"):
        check_values(made)
