"""Drivers of tests are forks where they may be, and started where they may not."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers.driver_forks import KUMITE, ROOT, ForkedDriver, own_variables, start_driver

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "kind"), [({}, ForkedDriver), ({"RAY_health_check_period_ms": "1"}, subprocess.Popen)]
)
def test_a_driver_is_forked_unless_its_variables_say_what_is_read_on_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], kind: type
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # as a session of Ray leaves it in this process
    said = tmp_path / "said.txt"
    driver = start_driver(KUMITE, ["--version"], {**own_variables(), **given}, ROOT, said)
    assert driver.wait(120) == 0
    assert isinstance(driver, kind)
    assert said.read_text().startswith("kumite ")
