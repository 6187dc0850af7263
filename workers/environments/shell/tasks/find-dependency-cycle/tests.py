def test_cycle(subject):
    assert [line.split() for line in subject.read("cycle.txt").strip().splitlines()] == [
        line.split() for line in subject.expected["cycle"]
    ]


def test_count(subject):
    assert int(subject.read("count.txt")) == subject.expected["count"]
