"""DeepDiff says the same of two values whether or not it is spared what is the same in both."""

from typing import Any

import pytest
from deepdiff.diff import DeepDiff
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_images.agentdojo import comparison

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 2) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcde", max_size=1), inner, max_size=6)
    ),
    max_leaves=20,
)


def compared(one: Any, other: Any) -> dict[str, Any]:
    """What DeepDiff finds, its sets in order."""
    return {kind: sorted(map(str, found)) for kind, found in DeepDiff(one, other).items()}


@pytest.mark.slow
@given(VALUES, VALUES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_deepdiff_finds_the_same_differences(one: Any, other: Any, nested: bool):
    if nested:
        one, other = {"x": one, "y": {"z": other}}, {"x": one, "y": {"z": one}}
    own = DeepDiff._diff, DeepDiff._diff_dict
    DeepDiff._diff, DeepDiff._diff_dict = (getattr(function, "unspared", function) for function in own)
    try:
        expected = compared(one, other)
        comparison.install_fast_comparison()
        assert compared(one, other) == expected
    finally:
        DeepDiff._diff, DeepDiff._diff_dict = own
