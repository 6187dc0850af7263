def test_overlapping_intervals_become_one(subject):
    assert subject.call("intervals.merge", [[1, 3], [2, 6], [8, 10], [15, 18]]) == [[1, 6], [8, 10], [15, 18]]


def test_order_does_not_matter(subject):
    assert subject.call("intervals.merge", [[8, 9], [1, 4], [3, 5]]) == [[1, 5], [8, 9]]


def test_adjacent_integers_are_merged(subject):
    assert subject.call("intervals.merge", [[1, 2], [3, 4], [6, 7]]) == [[1, 4], [6, 7]]


def test_contained_interval_disappears(subject):
    assert subject.call("intervals.merge", [[1, 10], [2, 3], [4, 5]]) == [[1, 10]]


def test_nothing_gives_nothing(subject):
    assert subject.call("intervals.merge", []) == []


def test_negative_and_single_points(subject):
    assert subject.call("intervals.merge", [[0, 0], [-1, -1], [-5, -3]]) == [[-5, -3], [-1, 0]]


def test_argument_is_left_alone(subject):
    code = "from intervals import merge\nresult = [[5, 6], [1, 5]]\nmerge(result)"
    assert subject.evaluate(code) == [[5, 6], [1, 5]]


def test_reversed_interval_is_an_error(subject):
    assert "ValueError" in subject.raised("from intervals import merge\nmerge([[1, 2], [4, 3]])")
