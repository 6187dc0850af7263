def test_no_link_is_missed(subject):
    assert set(subject.expected) <= set(subject.read("broken.txt").splitlines())


def test_no_link_is_accused_wrongly(subject):
    found = subject.read("broken.txt").splitlines()
    assert found and set(found) <= set(subject.expected)


def test_order(subject):
    assert subject.read("broken.txt").splitlines() == subject.expected
