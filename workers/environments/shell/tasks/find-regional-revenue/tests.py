def lines(subject):
    return [line.split() for line in subject.read("revenue.txt").strip().splitlines()]


def test_regions_are_in_order(subject):
    expected = sorted(subject.expected, key=lambda region: -subject.expected[region])
    assert [line[0] for line in lines(subject)] == expected


def test_amounts(subject):
    found = {region: int(amount) for region, amount in lines(subject)}
    assert found.keys() == subject.expected.keys()
    assert all(abs(found[region] - amount) < 0.51 for region, amount in subject.expected.items())
