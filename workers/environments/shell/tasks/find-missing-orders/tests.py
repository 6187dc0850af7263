def test_lost_orders(subject):
    assert subject.read("missing.txt").split() == subject.expected["missing"]


def test_doubled_orders(subject):
    assert subject.read("doubled.txt").split() == subject.expected["doubled"]
