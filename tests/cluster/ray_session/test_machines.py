"""New weights for a deployment whose replicas may be on other machines than the driver."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.drivers import ROOT, driver_environment


@pytest.mark.ray
def test_weights_are_refused_where_other_machines_would_not_see_them(tmp_path: Path):
    # Of a node that is killed, Ray's dashboard leaves sockets, whose paths must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short:
        done = subprocess.run(
            [sys.executable, ROOT / "tests" / "helpers" / "two_machines.py", tmp_path],
            env=driver_environment(tmp_path, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", TMPDIR=short),
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    alone, among_others, local, named = json.loads(done.stdout.splitlines()[-1])
    assert among_others == (
        f"policy.versions_folder is not set: replicas on other nodes cannot read {tmp_path}/versions; name a "
        "folder that all nodes share"
    )
    assert "there is no such folder" in alone
    assert alone == local == named, "the weights themselves were looked at"
