CLOCK = """
from lru import LRUCache
class Clock:
    now = 0.0
    def __call__(self):
        return self.now
clock = Clock()
"""


def test_least_recently_put_is_dropped(subject):
    code = "from lru import LRUCache\nc = LRUCache(2)\nfor k in 'abc': c.put(k, k * 2)\nresult = [c.get('a'), c.get('b'), c.get('c'), len(c)]"
    assert subject.evaluate(code) == [None, "bb", "cc", 2]


def test_get_counts_as_use(subject):
    code = "from lru import LRUCache\nc = LRUCache(2)\nc.put('a', 1); c.put('b', 2); c.get('a'); c.put('c', 3)\nresult = c.keys()\nresult = list(result)"
    assert subject.evaluate(code) == ["a", "c"]


def test_put_over_an_old_value_counts_as_use(subject):
    code = "from lru import LRUCache\nc = LRUCache(2)\nc.put('a', 1); c.put('b', 2); c.put('a', 9); c.put('c', 3)\nresult = [c.get('a'), c.get('b', 'gone'), len(c)]"
    assert subject.evaluate(code) == [9, "gone", 2]


def test_membership_is_no_use(subject):
    code = "from lru import LRUCache\nc = LRUCache(2)\nc.put('a', 1); c.put('b', 2); seen = 'a' in c; c.put('c', 3)\nresult = [seen, 'a' in c, 'b' in c]"
    assert subject.evaluate(code) == [True, False, True]


def test_stored_none_is_not_the_default(subject):
    code = "from lru import LRUCache\nc = LRUCache(1)\nc.put('a', None)\nresult = [c.get('a', 5), c.get('b', 5)]"
    assert subject.evaluate(code) == [None, 5]


def test_entries_are_gone_after_their_time(subject):
    code = CLOCK + "c = LRUCache(5, clock=clock, ttl=10)\nc.put('a', 1); clock.now = 9.9; early = c.get('a'); clock.now = 10\nresult = [early, c.get('a'), len(c), 'a' in c, list(c.keys())]"
    assert subject.evaluate(code) == [1, None, 0, False, []]


def test_use_does_not_prolong_an_entry_but_put_does(subject):
    code = CLOCK + "c = LRUCache(5, clock=clock, ttl=10)\nc.put('a', 1); c.put('b', 1); clock.now = 6; c.get('a'); c.put('b', 2); clock.now = 12\nresult = [c.get('a'), c.get('b')]"
    assert subject.evaluate(code) == [None, 2]


def test_dead_entries_make_room_before_live_ones(subject):
    code = CLOCK + "c = LRUCache(2, clock=clock, ttl=10)\nc.put('live', 1); c.put('dead', 1); clock.now = 5; c.put('live', 2); c.get('dead'); clock.now = 11; c.put('new', 3)\nresult = [c.get('live'), c.get('new'), c.get('dead'), len(c)]"
    assert subject.evaluate(code) == [2, 3, None, 2]


def test_capacity_must_be_positive(subject):
    assert "ValueError" in subject.raised("from lru import LRUCache\nLRUCache(0)")


def test_large_caches_are_quick(subject):
    code = "from lru import LRUCache\nc = LRUCache(100_000, ttl=1000)\nfor i in range(150_000):\n    c.put(i, i)\n    c.get(i - 7)\nresult = [len(c), c.get(149_999), c.get(0)]"
    assert subject.evaluate(code, cpu_seconds=10) == [100_000, 149_999, None]
