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


# The submission could reset a clock in its own process: the limit of CPU time is the kernel's.
def test_schedules_that_never_come_are_errors_and_quick(subject):
    code = """
from cron import next_run
result = []
for schedule in schedules:
    try:
        result.append(next_run(schedule, "2024-01-01T00:00"))
    except ValueError:
        pass
"""
    schedules = [f"{minute} 23 {day} {month} *" for minute in (1, 59) for day, month in ((30, 2), (31, 4), (31, 11), ("30-31", "feb"), (31, "2,4,6,9,11"))]
    assert subject.evaluate(code, schedules=schedules, cpu_seconds=2) == []


def test_far_dates_are_quick(subject):
    code = "from cron import next_run\nresult = [next_run(*case) for case in cases]"
    cases = [[f"{minute} 0 29 2 *", "2096-02-29T00:30"] for minute in range(20)]
    assert subject.evaluate(code, cases=cases, cpu_seconds=2) == [f"2104-02-29T00:{minute:02}" for minute in range(20)]
    cases = [["0 0 29 2 */7", f"{year}-03-01T00:00"] for year in (2004, 2008, 2016)]
    answers = [subject.raised("from cron import next_run\nnext_run(*case)", case=case, cpu_seconds=2) for case in cases]
    assert all("ValueError" in classes for classes in answers)


def test_times_after_midnight_and_at_the_end_of_a_year(subject):
    code = "from cron import next_run\nresult = [next_run(*case) for case in cases]"
    cases = [["59 23 31 12 *", "2024-12-31T23:58"], ["59 23 31 12 *", "2024-12-31T23:59"], ["0 0 1 1 *", "2024-12-31T23:59"], ["0 */5 * * *", "2024-02-28T20:00"]]
    assert subject.evaluate(code, cases=cases) == ["2024-12-31T23:59", "2025-12-31T23:59", "2025-01-01T00:00", "2024-02-29T00:00"]
