def lines(subject):
    return [line.strip() for line in subject.read("broken.txt").splitlines() if line.strip()]


def test_no_link_is_missed(subject):
    assert set(subject.expected) <= set(lines(subject))


def test_no_link_is_accused_wrongly(subject):
    found = lines(subject)
    assert found and set(found) <= set(subject.expected)


def test_order(subject):
    assert lines(subject) == subject.expected
