def backup(subject, *arguments):
    ran = subject.run("bash", "backup.sh", *arguments)
    return ran.status, ran.stdout


def below(subject, folder):
    return sorted(path[len(folder) + 1 :] for path in subject.files() if path.startswith(folder + "/"))


def test_everything_is_copied(subject):
    for path in ("a.txt", ".hidden", "sub/b.txt", "sub/.deep/c"):
        subject.write(f"t1/src/{path}", path)
    assert backup(subject, "t1/src", "t1/out") == (0, "0001\n")
    assert below(subject, "t1/out") == ["0001/.hidden", "0001/a.txt", "0001/sub/.deep/c", "0001/sub/b.txt"]


def test_blanks_and_dashes_in_names(subject):
    subject.write("t2/my files/a file.txt", "x")
    subject.write("-odd/-n", "y")
    assert backup(subject, "t2/my files", "t2/the out") == (0, "0001\n")
    assert subject.read("t2/the out/0001/a file.txt") == "x"
    assert backup(subject, "-odd", "t2/-out") == (0, "0001\n")
    assert subject.read("t2/-out/0001/-n") == "y"


def test_only_the_newest_are_kept(subject):
    subject.write("t3/src/a", "x")
    names = [backup(subject, "t3/src", "t3/out")[1].strip() for _ in range(5)]
    assert names == ["0001", "0002", "0003", "0004", "0005"]
    assert below(subject, "t3/out") == ["0003/a", "0004/a", "0005/a"]
    assert backup(subject, "t3/src", "t3/out", "1") == (0, "0006\n")
    assert below(subject, "t3/out") == ["0006/a"]


def test_numbers_are_decimal_and_follow_the_highest(subject):
    subject.write("t4/src/a", "x")
    for name in ("0008", "0009", "0099"):
        subject.write(f"t4/out/{name}/a", "old")
    assert backup(subject, "t4/src", "t4/out", "2") == (0, "0100\n")
    assert below(subject, "t4/out") == ["0099/a", "0100/a"]


def test_other_things_are_never_touched(subject):
    subject.write("t5/src/a", "x")
    for name in ("zzz/note", "12345/note", "001/note", "readme", ".keep", "0007.old/x"):
        subject.write(f"t5/out/{name}", "mine")
    for _ in range(3):
        backup(subject, "t5/src", "t5/out", "1")
    assert below(subject, "t5/out") == [".keep", "0003/a", "0007.old/x", "001/note", "12345/note", "readme", "zzz/note"]


def test_empty_source(subject):
    subject.write("t6/out/keep", "")
    subject.run("mkdir", "-p", "t6/src")
    assert backup(subject, "t6/src", "t6/out") == (0, "0001\n")


def test_wrong_arguments_change_nothing(subject):
    subject.write("t7/src/a", "x")
    wrong = [(), ("t7/src",), ("t7/none", "t7/out"), ("t7/src/a", "t7/out"), ("t7/src", "t7/out", "0"), ("t7/src", "t7/out", "x"), ("", "t7/out"), ("t7/src", "")]
    for arguments in wrong:
        assert backup(subject, *arguments) == (2, ""), arguments
    assert below(subject, "t7") == ["src/a"]
    assert sorted(subject.run("find", "t7").stdout.split()) == ["t7", "t7/src", "t7/src/a"]  # nor folders
