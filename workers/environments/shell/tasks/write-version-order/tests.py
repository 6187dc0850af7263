def test_numbers_compare_as_numbers(subject):
    ran = subject.run("python3", "versions.py", stdin="1.10.0\n1.9.0\n2.0.0\n1.9.11\n0.0.3\n")
    assert (ran.status, ran.stdout.split()) == (0, ["0.0.3", "1.9.0", "1.9.11", "1.10.0", "2.0.0"])


def test_order_of_the_specification(subject):
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0"]
    shuffled = [order[index] for index in (3, 7, 0, 5, 1, 6, 2, 4)]
    assert subject.run("python3", "versions.py", stdin="\n".join(shuffled)).stdout.split() == order


def test_digits_are_lower_than_letters(subject):
    ran = subject.run("python3", "versions.py", stdin="1.0.0-a\n1.0.0-999\n1.0.0--\n1.0.0-A\n")
    assert ran.stdout.split() == ["1.0.0-999", "1.0.0--", "1.0.0-A", "1.0.0-a"]


def test_build_metadata_keeps_the_order(subject):
    ran = subject.run("python3", "versions.py", stdin="1.0.0+b\n0.9.0\n1.0.0+a\n1.0.0\n1.0.0-x+001\n")
    assert ran.stdout.split() == ["0.9.0", "1.0.0-x+001", "1.0.0+b", "1.0.0+a", "1.0.0"]


def test_invalid_versions_are_left_out(subject):
    bad = ["1.0", "1.0.0.0", "01.0.0", "1.0.0-01", "1.0.0-", "1.0.0-a..b", "v1.0.0", "1.0.0+", "1.0.0-ä", "1.0.0-a+b+c", "-1.0.0"]
    ran = subject.run("python3", "versions.py", stdin="\n".join([*bad, "1.2.3"]))
    assert (ran.status, ran.stdout.split()) == (1, ["1.2.3"])


def test_unusual_but_valid_versions(subject):
    good = ["1.0.0-0", "1.0.0-0a", "1.0.0-00a", "1.0.0-a-b.c", "1.0.0+00.1", "99999999999999999999.0.0"]
    ran = subject.run("python3", "versions.py", stdin="\n\n".join(good) + "\n")
    assert ran.status == 0
    assert sorted(ran.stdout.split()) == sorted(good)


def test_nothing(subject):
    ran = subject.run("python3", "versions.py", stdin="\n \n")
    assert (ran.status, ran.stdout) == (0, "")
