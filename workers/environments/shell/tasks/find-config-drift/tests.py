def test_host(subject):
    assert subject.read("answer.txt").split()[:1] == subject.expected.split()[:1]


def test_setting_and_value(subject):
    assert subject.read("answer.txt").split() == subject.expected.split()
