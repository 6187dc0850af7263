"""Machines that share a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.bucket_runs import Machines
from tests.helpers.failing_storage import Bucket


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    Bucket.clear()
    found = Machines(tmp_path, monkeypatch)
    found.use("here")
    yield found
    Bucket.clear()
