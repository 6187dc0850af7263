import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_session import engine_folders


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_folder_goes_with_its_application_and_no_other():
    one, other = (engine_folders.make_folder(name, os.getpid()) for name in ("kumite-m-1", "kumite-m-2"))
    (one / "socket").touch()
    engine_folders.remove_folder("kumite-m-1")
    engine_folders.remove_folder("kumite-m-1")
    assert (one.exists(), other.exists()) == (False, True)


def test_folders_of_clusters_that_are_gone_are_swept(temporary: Path):
    with subprocess.Popen(["sleep", "3600"]) as owner:
        mine, its = (
            engine_folders.make_folder("kumite-m-1", os.getpid()),
            engine_folders.make_folder("kumite-m-1", owner.pid),
        )
        (temporary / "kumite-vllm-notes").mkdir()
        engine_folders.remove_stale_folders()
        assert mine.exists() and its.exists()
        owner.kill()
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
        engine_folders.remove_stale_folders()
    assert {path.name for path in temporary.iterdir()} == {mine.name, "kumite-vllm-notes"}


def test_a_socket_in_it_has_a_path_that_is_short_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", f"/{'x' * 60}")
    folder = engine_folders.make_folder("kumite-m-1", os.getpid())
    try:
        assert folder.parent == Path("/tmp")
    finally:
        engine_folders.remove_folder("kumite-m-1")
    assert not folder.exists()
