"""The workspace in the records: patches from an empty one to how it is after each call."""

import os
from pathlib import Path
from typing import Any

import pytest

from sandbox_images.shell.toolset import ShellSession, ShellToolset
from tests.helpers.patches import patched

pytestmark = pytest.mark.slow


@pytest.fixture
def session(tmp_path: Path) -> ShellSession:
    return ShellToolset().open({"files": [{"path": "a/b.txt", "text": "one"}]}, None, tmp_path)


def test_patches_lead_from_the_base_state_to_every_later_one(session: ShellSession) -> None:
    assert session.state_id is not None
    state: Any = ShellToolset().base_state(session.state_id)
    assert state == {"folder": ".", "files": {}}
    state = patched(state, session.state_patch())
    assert state == {
        "folder": ".",
        "files": {"a": {"kind": "folder"}, "a/b.txt": {"kind": "file", "size": 3, "text": "one"}},
    }
    session.call("edit_file", {"path": "a/b.txt", "old": "one", "new": "three"})
    session.call("write_file", {"path": "c~d", "content": ""})
    state = patched(state, session.state_patch())
    assert state["files"]["a/b.txt"] == {"kind": "file", "size": 5, "text": "three"}
    assert state["files"]["c~d"] == {"kind": "file", "size": 0, "text": ""}
    assert state == session.state()
    assert session.state_patch() == []


def test_text_of_binary_and_large_files_is_left_out(session: ShellSession, tmp_path: Path) -> None:
    (tmp_path / "workspace/binary").write_bytes(b"\0\1")
    (tmp_path / "workspace/large").write_bytes(b"x" * 20_000)
    (tmp_path / "workspace/link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "workspace/fifo")
    files = session.state()["files"]
    assert files["binary"] == {"kind": "file", "size": 2}
    assert files["large"] == {"kind": "file", "size": 20_000}
    assert files["link"] == {"kind": "link"}
    assert files["fifo"] == {"kind": "other"}


def test_state_of_a_crowded_workspace_is_bounded(session: ShellSession, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"workspace/{number:04}").write_bytes(b"x" * 10_000)
    files = session.state()["files"]
    assert len(files) == 200
    assert sum(len(file.get("text", "")) for file in files.values()) <= 128 * 1024
