"""What the policy reads of the file tools."""

from pathlib import Path

import pytest

from sandbox_images.shell.toolset import ShellSession, ShellToolset
from sandbox_images.tool_host.toolset import ToolsetError

pytestmark = pytest.mark.slow

NUMBERS = "".join(f"line {number}\n" for number in range(1, 101))


@pytest.fixture
def session(tmp_path: Path) -> ShellSession:
    files = [{"path": "numbers.txt", "text": NUMBERS}, {"path": "sub/b.bin", "base64": "AP8="}]
    return ShellToolset(output_cap=400, max_file_bytes=10_000).open({"files": files}, None, tmp_path)


def said(session: ShellSession, tool: str, **arguments: object) -> str:
    result = session.call(tool, arguments)
    assert result.error is None, result.error
    return result.content


def refused(session: ShellSession, tool: str, **arguments: object) -> str:
    result = session.call(tool, arguments)
    assert result.error is not None
    return result.error


def test_files_of_the_task_are_there(session: ShellSession, tmp_path: Path) -> None:
    assert (tmp_path / "workspace/sub/b.bin").read_bytes() == b"\0\xff"
    assert said(session, "list_files") == "numbers.txt  792 bytes\nsub/\nsub/b.bin  2 bytes"


def test_task_whose_files_leave_the_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolsetError, match="outside the workspace"):
        ShellToolset().open({"files": [{"path": "../x", "text": ""}]}, None, tmp_path)


def test_long_file_is_read_as_far_as_it_fits(session: ShellSession) -> None:
    text = said(session, "read_file", path="numbers.txt")
    assert text.startswith("line 1\nline 2\n") and text.endswith("line 51\n[lines 1 to 51 of 100]")


def test_some_lines_are_read(session: ShellSession) -> None:
    assert (
        said(session, "read_file", path="numbers.txt", start=99, lines=1)
        == "line 99\n[lines 99 to 99 of 100]"
    )
    assert (
        said(session, "read_file", path="numbers.txt", start=99)
        == "line 99\nline 100\n[lines 99 to 100 of 100]"
    )


def test_whole_file_is_read_as_it_is(session: ShellSession) -> None:
    for content in ("one\ntwo", "one\n", "\u2028\x0b\r\nx\r", "'quoted' \"ä\""):
        said(session, "write_file", path="f", content=content)
        assert said(session, "read_file", path="f") == content
    said(session, "write_file", path="f", content="")
    assert said(session, "read_file", path="f") == "[the file is empty]"


def test_line_that_does_not_fit_is_cut(session: ShellSession) -> None:
    said(session, "write_file", path="f", content="é" * 500)
    text = said(session, "read_file", path="f")
    assert text == "é" * 200 + "…\n[line 1 is too long to be shown whole]"


def test_lines_that_are_not_there_are_told(session: ShellSession) -> None:
    assert (
        refused(session, "read_file", path="numbers.txt", start=101)
        == "numbers.txt has 100 lines, none at 101"
    )
    assert "count from 1" in refused(session, "read_file", path="numbers.txt", start=0)
    assert "count from 1" in refused(session, "read_file", path="numbers.txt", lines=-1)


def test_writing_makes_folders_and_replaces(session: ShellSession) -> None:
    assert said(session, "write_file", path="x/y/z.txt", content="ä") == "wrote 2 bytes to x/y/z.txt"
    said(session, "write_file", path="x/y/z.txt", content="b")
    assert said(session, "read_file", path="x/y/z.txt") == "b"


def test_edit_replaces_a_text_that_is_there_once(session: ShellSession) -> None:
    assert (
        said(session, "edit_file", path="numbers.txt", old="line 50\n", new="")
        == "edited numbers.txt at line 50"
    )
    assert "line 49\nline 51\n" in said(session, "read_file", path="numbers.txt", start=48, lines=4)


def test_edit_of_a_text_that_is_not_there_once_changes_nothing(session: ShellSession) -> None:
    assert refused(session, "edit_file", path="numbers.txt", old="line 1", new="") == (
        "old occurs 12 times in numbers.txt; it must occur exactly once"
    )
    assert "occurs 0 times" in refused(session, "edit_file", path="numbers.txt", old="LINE", new="")
    assert "old is empty" in refused(session, "edit_file", path="numbers.txt", old="", new="x")
    assert said(session, "read_file", path="numbers.txt", start=100) == "line 100\n[lines 100 to 100 of 100]"


def test_failures_are_words_and_not_exceptions(session: ShellSession) -> None:
    assert refused(session, "read_file", path="none") == "none does not exist"
    assert "is outside the workspace" in refused(session, "read_file", path="/etc/passwd")
    assert "is a folder" in refused(session, "write_file", path="sub", content="")
    assert "binary file of 2 bytes" in refused(session, "edit_file", path="sub/b.bin", old="a", new="b")
    assert "10,001 bytes are too many" in refused(session, "write_file", path="f", content="x" * 10_001)
    assert "not a folder" in refused(session, "list_files", path="numbers.txt")
    assert "not valid Unicode" in refused(session, "write_file", path="f", content="\ud800")
    assert "NUL" in refused(session, "read_file", path="a\0b")


def test_long_listing_is_cut(session: ShellSession, tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"workspace/{number:03}").touch()
    assert len(said(session, "list_files").encode()) < 410
    wide = ShellToolset(output_cap=100_000)
    (tmp_path / "other").mkdir()
    other = wide.open({"files": []}, None, tmp_path / "other")
    for number in range(600):
        (tmp_path / f"other/workspace/{number:03}").touch()
    listing = said(other, "list_files").splitlines()
    assert (len(listing), listing[-1]) == (501, "[there are more; these are the first 500]")


def test_names_that_are_no_text_are_shown_all_the_same(session: ShellSession, tmp_path: Path) -> None:
    (tmp_path / "workspace" / b"\xff.txt".decode("utf-8", "surrogateescape")).touch()
    assert "\ufffd.txt  0 bytes" in said(session, "list_files")


def test_state_tells_of_as_many_paths_as_it_has_room_for(session: ShellSession) -> None:
    folder = "/".join([10 * "folder-"] * 8)
    for number in range(180):
        said(session, "write_file", path=f"{folder}/{number:03}", content="")
    paths = list(session.state()["files"])
    assert 60 * 1024 < sum(map(len, paths)) <= 64 * 1024
    assert paths[-1] < f"{folder}/179"
