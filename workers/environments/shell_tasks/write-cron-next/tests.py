CASES = [
    ("* * * * *", "2024-01-01T00:00", "2024-01-01T00:01"),
    ("30 9 * * *", "2024-01-01T09:30", "2024-01-02T09:30"),
    ("*/15 * * * *", "2024-12-31T23:46", "2025-01-01T00:00"),
    ("10-30/5 8 * * *", "2024-03-03T08:15", "2024-03-03T08:20"),
    ("10-30/7 8 * * *", "2024-03-03T08:25", "2024-03-04T08:10"),
    ("0 0 29 2 *", "2024-02-29T00:00", "2028-02-29T00:00"),
    ("0 0 31 * *", "2024-01-31T12:00", "2024-03-31T00:00"),
    ("0 12 * * mon-fri", "2024-06-14T12:00", "2024-06-17T12:00"),
    ("0 12 * * 7", "2024-06-14T12:00", "2024-06-16T12:00"),
    ("0 12 * * 0", "2024-06-14T12:00", "2024-06-16T12:00"),
    ("0 12 * * FRI,sun", "2024-06-14T12:00", "2024-06-16T12:00"),
    ("0 0 13 * 5", "2024-09-13T00:00", "2024-09-20T00:00"),
    ("0 0 1 * 3", "2024-09-27T00:00", "2024-10-01T00:00"),
    ("0 0 */2 * 1", "2024-09-01T00:00", "2024-09-09T00:00"),
    ("5,10,50-55 22 * Jan,jul-Aug *", "2024-02-01T00:00", "2024-07-01T22:05"),
    ("5,10,50-55 22 * Jan,jul-Aug *", "2024-08-31T22:54", "2024-08-31T22:55"),
    ("5,10,50-55 22 * Jan,jul-Aug *", "2024-08-31T22:55", "2025-01-01T22:05"),
    ("0 0 * * 5-7", "2024-06-14T00:00", "2024-06-15T00:00"),
    ("0 0 * * 6-7", "2024-06-15T00:00", "2024-06-16T00:00"),
]


def test_simple_schedules(subject):
    for schedule, after, expected in CASES[:5]:
        assert subject.call("cron.next_run", schedule, after) == expected


def test_ends_of_months_and_leap_years(subject):
    for schedule, after, expected in CASES[5:7]:
        assert subject.call("cron.next_run", schedule, after) == expected


def test_days_of_the_week(subject):
    for schedule, after, expected in [*CASES[7:11], *CASES[17:]]:
        assert subject.call("cron.next_run", schedule, after) == expected


def test_either_day_matches_when_both_are_restricted(subject):
    for schedule, after, expected in CASES[11:13]:
        assert subject.call("cron.next_run", schedule, after) == expected


def test_both_days_must_match_when_one_begins_with_a_star(subject):
    schedule, after, expected = CASES[13]
    assert subject.call("cron.next_run", schedule, after) == expected


def test_lists_and_names(subject):
    for schedule, after, expected in CASES[14:17]:
        assert subject.call("cron.next_run", schedule, after) == expected


def test_malformed_schedules_are_errors(subject):
    code = """
from cron import next_run
result = []
for schedule in schedules:
    try:
        result.append([schedule, next_run(schedule, "2024-01-01T00:00")])
    except ValueError:
        pass
"""
    schedules = ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *",
                 "* * * * 8", "5-1 * * * *", "*/0 * * * *", "a * * * *", "1,,2 * * * *", "* * * foo *", "-1 * * * *",
                 "1- * * * *", "mon * * * *"]  # fmt: skip
    assert subject.evaluate(code, schedules=schedules) == []


def test_schedule_that_never_comes_is_an_error_and_quick(subject):
    code = """
import time
from cron import next_run
began = time.process_time()
try:
    next_run("59 23 30 2 *", "2024-01-01T00:00")
    result = None
except ValueError:
    result = time.process_time() - began
"""
    assert subject.evaluate(code, cpu_seconds=8) < 2
