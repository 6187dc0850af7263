SET_UP = """
import gc
from limiter import RateLimiter
class Clock:
    now = 100.0
    def __call__(self):
        return self.now
clock = Clock()
"""


def test_calls_beyond_the_limit_are_refused(subject):
    code = SET_UP + "r = RateLimiter(3, 10, clock)\nresult = [r.allow('a') for _ in range(5)]"
    assert subject.evaluate(code) == [True, True, True, False, False]


def test_keys_do_not_share(subject):
    code = SET_UP + "r = RateLimiter(1, 10, clock)\nresult = [r.allow('a'), r.allow('b'), r.allow('a')]"
    assert subject.evaluate(code) == [True, True, False]


def test_window_slides(subject):
    code = SET_UP + """
r = RateLimiter(2, 10, clock)
result = []
for at in (0, 4, 9, 10, 13, 14, 19, 20):
    clock.now = at
    result.append(r.allow('k'))
"""
    assert subject.evaluate(code) == [True, True, False, True, False, True, False, True]


def test_refused_calls_do_not_count(subject):
    code = SET_UP + """
r = RateLimiter(1, 10, clock)
r.allow('k')
for second in range(1, 10):
    clock.now = 100 + second
    r.allow('k')
clock.now = 110
result = r.allow('k')
"""
    assert subject.evaluate(code) is True


def test_wait_tells_when(subject):
    code = SET_UP + """
r = RateLimiter(2, 10, clock)
result = [r.wait('k')]
r.allow('k'); clock.now = 103; result.append(r.wait('k'))
r.allow('k'); clock.now = 104; result.append(r.wait('k'))
clock.now = 110; result.append(r.wait('k'))
clock.now = 110; r.allow('k'); result.append(r.wait('k'))
"""
    assert subject.evaluate(code) == [0.0, 0.0, 6.0, 0.0, 3.0]


def test_wait_counts_nothing(subject):
    code = SET_UP + "r = RateLimiter(1, 10, clock)\n[r.wait('k') for _ in range(9)]\nresult = [r.allow('k'), sorted(r.keys())]"
    assert subject.evaluate(code) == [True, ["k"]]


def test_keys_are_those_that_count(subject):
    code = SET_UP + "r = RateLimiter(1, 10, clock)\nr.allow('a'); clock.now = 105; r.allow('b'); clock.now = 110\nresult = sorted(r.keys())"
    assert subject.evaluate(code) == ["b"]


def test_keys_are_forgotten_whatever_they_are(subject):
    """Measured by what the process holds on to: numbers and texts are in no list that can be searched."""
    code = SET_UP + """
import tracemalloc
def calls(first, end):
    for i in range(first, end):
        clock.now = 100 + i * 0.1
        r.allow(make(i))
result = []
for make in (lambda i: 10**12 + i, lambda i: f"client-{i}", lambda i: (i, "path")):
    clock.now = 100.0
    r = RateLimiter(2, 10, clock)
    calls(0, 1_000)
    tracemalloc.start()
    gc.collect(); before = tracemalloc.get_traced_memory()[0]
    calls(1_000, 21_000)
    gc.collect(); result.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
"""
    grown = subject.evaluate(code, cpu_seconds=20)
    assert all(each < 400_000 for each in grown), grown  # 20 bytes for a key: one that is held takes over 100


def test_keys_that_are_refused_or_only_waited_for_are_forgotten(subject):
    code = SET_UP + """
import weakref
class Key:
    pass
r = RateLimiter(1, 10, clock)
seen = []
for i in range(3_000):
    clock.now = 100 + i
    key, other = Key(), Key()
    seen += [weakref.ref(key), weakref.ref(other)]
    r.wait(key); r.allow(key); r.allow(key); r.wait(other)
del key, other
gc.collect()
result = sum(each() is not None for each in seen)
"""
    assert subject.evaluate(code) <= 21


def test_all_is_forgotten_after_a_burst(subject):
    code = SET_UP + """
import weakref
class Key:
    pass
r = RateLimiter(1, 10, clock)
burst = [Key() for _ in range(2_000)]
for key in burst:
    r.allow(key)
seen = [weakref.ref(key) for key in burst]
del key, burst
clock.now = 121
r.allow("another")
gc.collect()
result = [sum(each() is not None for each in seen), sorted(r.keys())]
"""
    assert subject.evaluate(code) == [0, ["another"]]


def test_old_keys_are_forgotten(subject):
    code = SET_UP + """
class Key:
    pass
r = RateLimiter(2, 10, clock)
for i in range(20_000):
    clock.now = 100 + i * 0.1
    r.allow(Key())
gc.collect()
result = sum(type(each) is Key for each in gc.get_objects())
"""
    assert subject.evaluate(code) <= 201


def test_bad_settings_are_errors(subject):
    for arguments in ([0, 1], [1, 0], [1, -2]):
        code = "from limiter import RateLimiter\nRateLimiter(*arguments)"
        assert "ValueError" in subject.raised(code, arguments=arguments)
