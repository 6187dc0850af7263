def found(subject, values, *wanted):
    code = "from search import first_at_least\nresult = [first_at_least(values, each) for each in wanted]"
    return subject.evaluate(code, values=values, wanted=wanted, cpu_seconds=1)


def test_element_is_found(subject):
    assert found(subject, [1, 3, 5, 7, 9], 1, 3, 5, 7, 9) == [0, 1, 2, 3, 4]


def test_between_two_elements(subject):
    assert found(subject, [1, 3, 5, 7, 9], 0, 2, 8) == [0, 1, 4]


def test_beyond_the_last(subject):
    assert found(subject, [1, 3, 5], 6) == [3]


def test_first_of_equal_elements(subject):
    assert found(subject, [2, 2, 2, 2, 3], 2) == [0]
    assert found(subject, [1, 2, 2, 2, 2], 2) == [1]


def test_nothing_to_search(subject):
    assert found(subject, [], 4) == [0]


def test_only_a_few_elements_are_looked_at(subject):
    code = """
from search import first_at_least
class Squares:
    looked_at = 0
    def __len__(self):
        return 10**6
    def __getitem__(self, index):
        assert 0 <= index < 10**6
        Squares.looked_at += 1
        return index * index
result = [first_at_least(Squares(), 10**8 + 1), Squares.looked_at < 50]
"""
    assert subject.evaluate(code, cpu_seconds=1) == [10_001, True]
