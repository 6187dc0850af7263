def test_path(subject):
    assert subject.read("answer.txt").strip().removeprefix("./") == subject.expected["path"]


def test_copy(subject):
    assert "found.bin" in subject.files()  # a link to it is no copy
    ran = subject.run("sha256sum", "found.bin")
    assert ran.stdout.split()[0] == subject.expected["digest"]
