"""Paths that try to leave the workspace, and files that are not what the file tools take."""

import ctypes
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_images.shell.workspace import FileError, Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(str(root), max_bytes=1000)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../secret", "..", "/", "../workspace2/x", "./../secret", "a/\0b"],
)
def test_paths_that_leave_the_workspace_are_refused(workspace: Workspace, path: str) -> None:
    for attempt in (workspace.read_text, lambda path: workspace.write_bytes(path, b"x")):
        with pytest.raises(FileError, match="is outside the workspace"):
            attempt(path)


@pytest.mark.parametrize(
    "path", ["a/b.txt", "./a/b.txt", "a/../a//b.txt", "{root}/a/b.txt", "{root}/../workspace/a/b.txt"]
)
def test_paths_within_it_are_taken_in_any_form(root: Path, workspace: Workspace, path: str) -> None:
    workspace.write_bytes("a/b.txt", b"text")
    assert workspace.read_text(path.format(root=root)) == "text"


def test_link_to_a_file_is_not_followed(root: Path, workspace: Workspace) -> None:
    (root / "link").symlink_to("../secret")
    with pytest.raises(FileError, match="link can't be opened: link is a symbolic link"):
        workspace.read_text("link")
    with pytest.raises(FileError, match="symbolic link"):
        workspace.write_bytes("link", b"overwritten")
    assert (root.parent / "secret").read_text() == "secret"


def test_link_to_a_folder_is_not_followed(root: Path, workspace: Workspace) -> None:
    (root / "link").symlink_to("../outside")
    with pytest.raises(FileError, match="link is not a folder, or it is a symbolic link"):
        workspace.read_text("link/secret")
    with pytest.raises(FileError):
        workspace.write_bytes("link/new", b"x")
    with pytest.raises(FileError):
        list(workspace.entries("link"))
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_links_within_the_workspace_are_not_followed_either(root: Path, workspace: Workspace) -> None:
    (root / "real").write_text("x")
    (root / "link").symlink_to("real")
    with pytest.raises(FileError):
        workspace.read_text("link")


def test_workspace_that_was_moved_away_stays_the_one_that_is_used(root: Path, workspace: Workspace) -> None:
    (root / "file").write_text("mine")
    root.rename(root.with_name("moved"))
    root.symlink_to("outside")
    assert workspace.read_text("file") == "mine"
    with pytest.raises(FileError, match="does not exist"):
        workspace.read_text("secret")


def exchange(one: Path, other: Path) -> None:
    """Two names change places in one step, so that neither is ever missing (`renameat2`)."""
    at_cwd, in_one_step = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(at_cwd, bytes(one), at_cwd, bytes(other), in_one_step) == 0, ctypes.get_errno()


@pytest.fixture
def swapping(root: Path) -> Iterator[None]:
    """A folder of the workspace that is a folder and a link to the outside by turns, as fast as can be."""
    (root / "folder").mkdir()
    (root / "folder" / "secret").write_text("harmless")
    (root / "link").symlink_to("../outside")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            exchange(root / "folder", root / "link")

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere(
    root: Path, workspace: Workspace, swapping: None
) -> None:
    outcomes: set[str] = set()
    for _ in range(3000):
        try:
            outcomes.add(workspace.read_text("folder/secret"))
            workspace.write_bytes("folder/new", b"x")
        except FileError:
            outcomes.add("refused")
    assert outcomes == {"harmless", "refused"}
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_what_is_no_regular_file_is_refused(root: Path, workspace: Workspace) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    for attempt in (workspace.read_text, lambda path: workspace.write_bytes(path, b"x")):
        with pytest.raises(FileError, match="fifo is no regular file"):
            attempt("fifo")
        for folder in ("folder", ".", "folder/.."):
            with pytest.raises(FileError, match="is a folder"):
                attempt(folder)
        with pytest.raises(FileError, match="file is not a folder"):
            workspace.write_bytes("file", b"x")
            attempt("file/below")


def test_missing_file_is_told(workspace: Workspace) -> None:
    with pytest.raises(FileError, match=r"no/such\.txt does not exist"):
        workspace.read_text("no/such.txt")


def test_name_that_is_too_long_is_told(workspace: Workspace) -> None:
    with pytest.raises(FileError, match="File name too long"):
        workspace.write_bytes("x" * 300, b"")


@pytest.mark.parametrize("content", [b"a\0b", b"\xff\xfe", b"\x89PNG\r\n\x1a\n"])
def test_binary_file_is_no_text(root: Path, workspace: Workspace, content: bytes) -> None:
    (root / "file").write_bytes(content)
    with pytest.raises(FileError, match=f"file is a binary file of {len(content)} bytes, not text in UTF-8"):
        workspace.read_text("file")
    assert workspace.read_bytes("file") == content


def test_large_files_are_refused(root: Path, workspace: Workspace) -> None:
    (root / "file").write_bytes(b"x" * 1001)
    with pytest.raises(FileError, match="file has 1,001 bytes; files up to 1,000 can be read"):
        workspace.read_text("file")
    with pytest.raises(FileError, match="1,001 bytes are too many"):
        workspace.write_bytes("new", b"x" * 1001)
    assert not (root / "new").exists()


def test_shorter_content_leaves_nothing_of_the_longer_one(workspace: Workspace) -> None:
    workspace.write_bytes("file", b"long content")
    workspace.write_bytes("file", b"short")
    assert workspace.read_text("file") == "short"


def test_entries_are_sorted_and_tell_what_they_are(root: Path, workspace: Workspace) -> None:
    workspace.write_bytes("b/c.txt", b"12")
    workspace.write_bytes("a.txt", b"")
    (root / "z").symlink_to("b")
    os.mkfifo(root / "fifo")
    found = [(entry.path, entry.kind, entry.size) for entry in workspace.entries()]
    assert found == [
        ("a.txt", "file", 0),
        ("b", "folder", 0),
        ("b/c.txt", "file", 2),
        ("fifo", "other", 0),
        ("z", "link", 0),
    ]
    assert [entry.path for entry in workspace.entries("b")] == ["b/c.txt"]


def test_entries_of_deep_and_full_folders_have_an_end(root: Path, workspace: Workspace) -> None:
    deep = root
    for _ in range(100):
        deep = deep / "d"
        deep.mkdir()
    for number in range(50):
        (root / f"f{number:02}").touch()
    assert len(list(workspace.entries(limit=10))) <= 10 + 33
    assert sum(entry.kind == "folder" for entry in workspace.entries()) == 33


def test_nothing_is_kept_open(root: Path, workspace: Workspace) -> None:
    workspace.write_bytes("a/b/c", b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        workspace.read_text("a/b/c")
        list(workspace.entries())
        with pytest.raises(FileError):
            workspace.read_text("a/b/missing")
        with pytest.raises(FileError):
            workspace.read_text("a/b/c/d")
    assert len(os.listdir("/proc/self/fd")) == before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_folder_that_is_renamed_while_it_is_looked_at_costs_no_descriptor(
    root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its being opened and being looked at again: a policy can bring that about in a loop."""
    (root / "folder").mkdir()
    (root / "folder" / "file").write_text("text")
    look = os.stat

    def too_late(path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        if path == "folder" and dir_fd is not None:
            raise FileNotFoundError(2, "No such file or directory")
        return look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[call-overload]

    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", too_late)
        for _ in range(20):
            for attempt in (workspace.read_text, lambda path: workspace.write_bytes(path, b"x")):
                with pytest.raises(FileError, match="folder/file does not exist"):
                    attempt("folder/file")
    assert open_descriptors() == before
    assert workspace.read_text("folder/file") == "text"


def test_want_of_descriptors_is_told_like_any_other_error(root: Path, workspace: Workspace) -> None:
    (root / "file").write_text("text")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(kept) + 1, limits[1]))
    try:
        with pytest.raises(FileError, match="file: Too many open files"):
            while True:
                kept.append(os.open(os.devnull, os.O_RDONLY)) if open_descriptors_left() else None
                workspace.read_text("file")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in kept:
            os.close(descriptor)
    assert workspace.read_text("file") == "text"


def open_descriptors_left() -> bool:
    try:
        os.close(os.dup(0))
    except OSError:
        return False
    return True
