def dates(subject, code, **inputs):
    prelude = "from datetime import date\nfrom billing import *\nD = date.fromisoformat\n"
    return subject.evaluate(prelude + code, **inputs)


def test_months_forward(subject):
    code = "result = [str(add_months(D(day), months)) for day, months in cases]"
    cases = [("2024-04-15", 1), ("2024-01-31", 1), ("2023-01-31", 1), ("2024-11-30", 1), ("2024-12-05", 1), ("2024-12-31", 2), ("2024-01-01", 11), ("2024-01-01", 12), ("2024-02-29", 12)]
    expected = ["2024-05-15", "2024-02-29", "2023-02-28", "2024-12-30", "2025-01-05", "2025-02-28", "2024-12-01", "2025-01-01", "2025-02-28"]
    assert dates(subject, code, cases=cases) == expected


def test_months_backward(subject):
    code = "result = [str(add_months(D(day), months)) for day, months in cases]"
    cases = [("2024-03-31", -1), ("2024-01-15", -1), ("2024-01-15", -13), ("2024-12-15", -12), ("2024-05-05", 0)]
    assert dates(subject, code, cases=cases) == ["2024-02-29", "2023-12-15", "2022-12-15", "2023-12-15", "2024-05-05"]


def test_periods_meet_and_do_not_overlap(subject):
    code = "result = [[str(day) for day in period] for period in periods(D('2024-11-15'), 3)]"
    assert dates(subject, code) == [["2024-11-15", "2024-12-14"], ["2024-12-15", "2025-01-14"], ["2025-01-15", "2025-02-14"]]


def test_periods_remember_their_day(subject):
    code = "result = [[str(day) for day in period] for period in periods(D('2024-01-31'), 4)]"
    assert dates(subject, code) == [["2024-01-31", "2024-02-28"], ["2024-02-29", "2024-03-30"], ["2024-03-31", "2024-04-29"], ["2024-04-30", "2024-05-30"]]


def test_days_of_a_period(subject):
    assert dates(subject, "result = [days_in(period) for period in periods(D('2024-01-01'), 4)]") == [31, 29, 31, 30]


def test_pro_rata(subject):
    code = "p = periods(D('2024-04-01'), 1)[0]\nresult = [pro_rata(3000, p, D(day)) for day in ('2024-04-01', '2024-04-10', '2024-04-30', '2024-05-02', '2024-03-31')]"
    assert dates(subject, code) == [100, 1000, 3000, 3000, 0]


def test_pro_rata_rounds_halves_up_to_integers(subject):
    code = "p = periods(D('2024-04-01'), 1)[0]\nmade = [pro_rata(cents, p, D('2024-04-15')) for cents in (1, 3, 5, 999)]\nresult = [made, [type(m).__name__ for m in made]]"
    assert dates(subject, code) == [[1, 2, 3, 500], ["int"] * 4]
