"""What tools give is written as `yaml.safe_dump` writes it, to the byte."""

import datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_images.agentdojo.dumper import dump_yaml
from tests.helpers.agentdojo import SUITES, suites

TEXTS = st.one_of(
    st.text(max_size=200),
    st.text("ab: -#'\"\n\t{[&*!|>%@`?,0é", max_size=250),
    st.sampled_from(["", "yes", "null", "~", "1", "1e3", "2024-05-01", "=", "<<", "- a", "a: b", "x" * 300]),
)
SCALARS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC])),
    st.dates(),
)
KEYS = st.one_of(
    st.sampled_from(["id_", "body", "0", "a key", "true", "k" * 140, "0" + "\U00010000" * 12]), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(VALUES)
@settings(max_examples=400, deadline=None)
def test_any_value_is_written_as_pyyaml_writes_it(value: Any):
    assert dump_yaml(value) == yaml.safe_dump(value)
    assert dump_yaml(value) == yaml.safe_dump(value)


@pytest.mark.slow
@given(TEXTS, st.integers(0, 5), st.text("kq", min_size=1, max_size=100), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_text_is_broken_into_lines_as_its_place_wants_it(text: str, depth: int, key: str, listed: bool):
    value: Any = [text] if listed else {key: text}
    for _ in range(depth):
        value = [value, {"other": text}] if listed else {key: value}
    assert dump_yaml(value) == yaml.safe_dump(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_every_part_of_a_suites_environment_is_written_as_pyyaml_writes_it(name: str):
    environment = suites()[name].load_and_inject_default_environment({})
    state = environment.model_dump()
    for part in [state, *state.values()]:
        assert dump_yaml(part) == yaml.safe_dump(part)


def test_what_is_there_twice_gets_an_anchor():
    day = datetime.date(2024, 5, 1)
    assert dump_yaml([day, day]) == yaml.safe_dump([day, day])
    item = {"a": 1}
    assert "&id001" in dump_yaml([item, item])


def test_what_pyyaml_refuses_is_refused():
    with pytest.raises(yaml.YAMLError):
        dump_yaml([object()])
