import unittest
from datetime import date

from billing import add_months, periods


class Billing(unittest.TestCase):
    def test_next_month(self):
        self.assertEqual(add_months(date(2024, 4, 15), 1), date(2024, 5, 15))

    def test_end_of_month(self):
        self.assertEqual(add_months(date(2024, 1, 31), 1), date(2024, 2, 29))

    def test_periods_meet(self):
        first, second = periods(date(2024, 4, 15), 2)
        self.assertEqual(first, (date(2024, 4, 15), date(2024, 5, 14)))
        self.assertEqual(second[0], date(2024, 5, 15))


if __name__ == "__main__":
    unittest.main()
