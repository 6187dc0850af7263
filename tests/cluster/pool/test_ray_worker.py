"""A worker's node goes between the end of a unit and the arrival of its results."""

import subprocess
import sys

import pytest

from tests.helpers.drivers import ROOT
from tests.helpers.ray_head import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.faults]
pytestmark += [pytest.mark.group("own ray")]


def test_results_that_are_lost_with_their_node_are_said_to_be_lost() -> None:
    with ray_head(cpus=0) as head:
        node = head.add_node(cpus=1)
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "helpers" / "large_results.py"), head.gcs],
            env={**head.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        try:
            assert "played\n" in iter(driver.stdout.readline, "")
            head.lose(node)
            said, _ = driver.communicate("go on\n", timeout=600)
        finally:
            driver.kill()
            driver.wait()
    assert "ResultLost: results of worker worker-0001 were lost: Object" in said
