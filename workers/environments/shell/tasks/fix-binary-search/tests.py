PLACES = [0, 1, 2, 10_001, 2**31 + 7, 2**61 - 1, 2**61, 2**62 - 2, 2**62 - 1]


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


# An object that counts could be reset by what it counts. These are longer than could be gone through in time,
# and their elements are no numbers that could be guessed from a few.
LONG = """
from search import first_at_least
class Spread:
    def __init__(self, size, step):
        self.size, self.step = size, step
    def __len__(self):
        return self.size
    def __getitem__(self, index):
        if not isinstance(index, int) or not 0 <= index < self.size:
            raise IndexError(index)
        return index * self.step + pow(index, 3, self.step)
"""


def test_only_a_few_elements_are_looked_at(subject):
    code = LONG + "result = [first_at_least(Spread(2**62, 10**9), wanted) for wanted in wants]"
    wants = [place * 10**9 + pow(place, 3, 10**9) + more for place in PLACES for more in (0, 1)]
    expected = [place + more for place in PLACES for more in (0, 1)]
    assert subject.evaluate(code, wants=wants, cpu_seconds=2) == expected


def test_long_list_is_searched_often_enough(subject):
    code = "from search import first_at_least\nvalues = list(range(0, 3 * 400_000, 3))\nresult = [first_at_least(values, wanted) for wanted in range(600_000, 620_000)]"
    assert subject.evaluate(code, cpu_seconds=4) == [-(-wanted // 3) for wanted in range(600_000, 620_000)]


def test_other_objects_with_an_order(subject):
    code = "from search import first_at_least\nresult = [first_at_least(values, wanted) for wanted in wants] + [first_at_least('bdf', 'e')]"
    assert subject.evaluate(code, values=["", "a", "b", "b", "c"], wants=["", "aa", "b", "c", "d"]) == [0, 2, 2, 4, 5, 2]
