"""Imports are not held up by the collector of garbage, and afterwards it is as it was."""

import gc

import pytest

from workers.collector import collect_seldom


def test_it_looks_seldom_within_the_block_and_as_before_after_it() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        with pytest.raises(ZeroDivisionError), collect_seldom():
            assert gc.get_threshold()[0] > 10_000
            raise ZeroDivisionError
        assert gc.get_threshold() == (700, 10, 10)
    finally:
        gc.set_threshold(*before)
