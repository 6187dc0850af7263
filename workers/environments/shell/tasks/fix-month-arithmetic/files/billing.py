"""Billing periods of subscriptions."""

from datetime import date, timedelta


def add_months(day, months):
    month = day.month + months
    return date(day.year + month // 12, month % 12, day.day)


def periods(start, count):
    """The first and last days of consecutive periods of one month each."""
    found = []
    for _ in range(count):
        following = add_months(start, 1)
        found.append((start, following))
        start = following
    return found


def days_in(period):
    first, last = period
    return (last - first).days


def pro_rata(cents, period, cancelled):
    """What is due of a price when a subscription ends within a period, to the nearest cent."""
    return cents * (cancelled - period[0]).days / days_in(period)
