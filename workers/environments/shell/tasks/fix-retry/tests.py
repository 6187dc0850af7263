PRELUDE = """
import asyncio
from retry import retry
slept = []
calls = []
def failing(times, error=OSError):
    def function(*args, **kwargs):
        "Documented."
        calls.append([list(args), kwargs])
        if len(calls) <= times:
            raise error("failed")
        return "done"
    return function
"""


def test_arguments_and_result_pass_through(subject):
    code = PRELUDE + "f = retry(sleep=slept.append)(failing(0))\nresult = [f(1, 'a', key=2), calls, slept]"
    assert subject.evaluate(code) == ["done", [[[1, "a"], {"key": 2}]], []]


def test_failures_are_tried_again_with_growing_delays(subject):
    code = PRELUDE + "f = retry(attempts=5, delay=0.5, factor=3, sleep=slept.append)(failing(3))\nresult = [f(), len(calls), slept]"
    assert subject.evaluate(code) == ["done", 4, [0.5, 1.5, 4.5]]


def test_delays_begin_anew_with_every_use(subject):
    code = PRELUDE + "f = retry(attempts=3, delay=1, sleep=slept.append)(failing(2))\nf(); calls.clear(); f()\nresult = slept"
    assert subject.evaluate(code) == [1, 2, 1, 2]


def test_last_failure_goes_to_the_caller(subject):
    code = PRELUDE + """
f = retry(attempts=2, sleep=slept.append)(failing(9))
try:
    f()
except OSError as error:
    result = [str(error), len(calls), slept]
"""
    assert subject.evaluate(code) == ["failed", 2, [1.0]]


def test_other_exceptions_pass_at_once(subject):
    code = PRELUDE + """
result = []
for on, error in ((ValueError, OSError), ((ValueError, KeyError), OSError), (Exception, KeyboardInterrupt)):
    calls.clear()
    try:
        retry(on=on, sleep=slept.append)(failing(9, error))()
    except BaseException as raised:
        result.append([type(raised).__name__, len(calls)])
result.append(slept)
"""
    assert subject.evaluate(code) == [["OSError", 1], ["OSError", 1], ["KeyboardInterrupt", 1], []]


def test_tuple_of_classes(subject):
    code = PRELUDE + "f = retry(on=(KeyError, OSError), sleep=slept.append)(failing(1))\nresult = f()"
    assert subject.evaluate(code) == "done"


def test_name_and_documentation_are_kept(subject):
    code = PRELUDE + "g = failing(0); g.mark = 7; f = retry(attempts=2)(g)\nresult = [f.__name__, f.__doc__, f.mark]"
    assert subject.evaluate(code) == ["function", "Documented.", 7]


def test_without_parentheses_and_on_methods(subject):
    code = PRELUDE + """
class Thing:
    tries = 0
    @retry
    def one(self, x):
        return [x, self.tries]
    @retry(sleep=slept.append)
    def two(self, x):
        self.tries += 1
        if self.tries < 3:
            raise ValueError
        return x
thing = Thing()
result = [thing.one(5), thing.two(x=6), thing.tries]
"""
    assert subject.evaluate(code) == [[5, 0], 6, 3]


def test_coroutine_functions(subject):
    code = PRELUDE + """
async def awaited(seconds):
    slept.append(["awaited", seconds])
def function(fails):
    async def flaky(x):
        calls.append(x)
        if len(calls) <= fails:
            raise OSError
        return x * 2
    return flaky
one = retry(sleep=awaited)(function(2))
two = retry(sleep=slept.append)(function(1))
three = retry(delay=0.01)(function(1))
result = [asyncio.iscoroutinefunction(one), asyncio.run(one(4))]
calls.clear(); result.append(asyncio.run(two(5)))
calls.clear(); result.append(asyncio.run(three(6)))
result.append(slept)
"""
    assert subject.evaluate(code) == [True, 8, 10, 12, [["awaited", 1.0], ["awaited", 2.0], 1.0]]


def test_coroutines_let_others_run_while_they_sleep(subject):
    """By the loop's own clock, which goes on by itself: how `asyncio.sleep` was imported does not matter."""
    code = PRELUDE + """
class Loop(asyncio.SelectorEventLoop):
    now = 100.0
    def time(self):
        return self.now
    def _run_once(self):
        if self._scheduled and not self._ready:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()
def function(fails):
    tries = []
    async def flaky():
        tries.append(loop.time())
        if len(tries) <= fails:
            raise OSError
        return [each - 100 for each in tries]
    return flaky
async def both():
    return await asyncio.gather(retry(attempts=4, delay=70)(function(3))(), retry(delay=50, factor=3)(function(2))())
loop = Loop()
result = loop.run_until_complete(both())
"""
    assert subject.evaluate(code) == [[0, 70, 210, 490], [0, 50, 200]]


def test_functions_sleep_as_time_does_unless_told_otherwise(subject):
    code = PRELUDE + """
import time
began = time.monotonic()
retry(attempts=2, delay=0.2)(failing(1))()
result = time.monotonic() - began
"""
    assert subject.evaluate(code) >= 0.19


def test_too_few_attempts_are_an_error_where_it_is_applied(subject):
    code = "from retry import retry\n@retry(attempts=0)\ndef f():\n    pass\n"
    assert "ValueError" in subject.raised(code)
