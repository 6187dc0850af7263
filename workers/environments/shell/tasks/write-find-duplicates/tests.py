import json


def groups(subject, folder):
    ran = subject.run("python3", "duplicates.py", folder)
    assert ran.status == 0
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_groups_are_found(subject):
    for path, text in {"a.txt": "same", "b/c.txt": "same", "b/d.txt": "else", "e.txt": "diff"}.items():
        subject.write(f"t1/{path}", text)
    assert groups(subject, "t1") == [{"bytes": 4, "files": ["a.txt", "b/c.txt"]}]


def test_most_savings_come_first(subject):
    for path, text in {"a": "x" * 10, "b": "x" * 10, "c": "yyyy", "d": "yyyy", "e": "yyyy", "f": "yyyy"}.items():
        subject.write(f"t2/{path}", text)
    assert [group["files"] for group in groups(subject, "t2")] == [["c", "d", "e", "f"], ["a", "b"]]


def test_equal_savings_by_first_file(subject):
    for path, text in {"z1": "aaaa", "b2": "aaaa", "a9": "bbbb", "x": "bbbb"}.items():
        subject.write(f"t3/{path}", text)
    assert [group["files"] for group in groups(subject, "t3")] == [["a9", "x"], ["b2", "z1"]]


def test_empty_files_are_left_out(subject):
    subject.write("t4/a", "")
    subject.write("t4/b", "")
    assert groups(subject, "t4") == []


def test_links_are_left_out(subject):
    subject.write("t5/real", "content")
    subject.write("t5/sub/other", "unlike")
    subject.run("ln", "-s", "real", "t5/link")
    subject.run("ln", "-s", "sub", "t5/again")
    subject.run("ln", "-s", ".", "t5/loop")
    assert groups(subject, "t5") == []


def test_same_size_is_not_same_content(subject):
    subject.write("t6/a", "abc")
    subject.write("t6/b", "abd")
    assert groups(subject, "t6") == []


def times_of_access(subject, paths):
    """By Python: the `stat` command fails under some kernels that stand between it and the machine's."""
    ran = subject.run("python3", "-c", "import os, sys\nprint(*(int(os.stat(p).st_atime) for p in sys.argv[1:]))", *paths)
    times = ran.stdout.split()
    assert len(times) == len(paths), ran
    return times


def test_files_of_unique_size_are_not_read(subject):
    """By the kernel's word, whoever reads: a read sets the time of access where it is older than a day."""
    for path, text in {"a": "one", "b": "one", "locked": "longer than any", "sub/longest": "longer than any other"}.items():
        subject.write(f"t7/{path}", text)
    paths = ["t7/a", "t7/locked", "t7/sub/longest"]
    subject.run("python3", "-c", "import os, sys\nfor p in sys.argv[1:]: os.utime(p, (981158400, os.stat(p).st_mtime))", *paths)
    before = times_of_access(subject, paths)
    subject.run("cat", "t7/a")
    is_told = times_of_access(subject, paths)[0] != before[0]
    assert groups(subject, "t7") == [{"bytes": 3, "files": ["a", "b"]}]
    if is_told:  # not so on file systems that keep no times of access
        assert times_of_access(subject, paths)[1:] == before[1:]


def test_files_of_unique_size_need_not_be_readable(subject):
    """Where times of access are not kept: what can't be read would end a program that tries."""
    subject.write("t8/a", "one")
    subject.write("t8/b", "one")
    subject.run("bash", "-c", "truncate -s 900G t8/sparse && truncate -s 901G t8/sparser")
    assert groups(subject, "t8") == [{"bytes": 3, "files": ["a", "b"]}]


def test_no_folder_is_exit_code_2(subject):
    ran = subject.run("python3", "duplicates.py", "nowhere")
    assert (ran.status, ran.stdout) == (2, "")
