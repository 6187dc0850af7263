def test_pairs(subject):
    assert subject.read("pairs.csv").split() == subject.expected["pairs"]


def test_sum(subject):
    assert subject.read("sum.txt").strip() == subject.expected["sum"]
