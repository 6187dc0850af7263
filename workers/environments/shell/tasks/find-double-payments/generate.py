"""Payments with some invoices paid twice, and many that only look like it."""

import csv
import io
from datetime import date, timedelta
from random import Random

VENDORS = ["Acme AG", "Blum & Co", "Cargo Line", "Dataworks", "Elektro Meier", "Fischer, Sohn"]


def generate(random: Random) -> tuple[dict[str, str], dict[str, object]]:
    rows: list[dict[str, str]] = []
    ids = iter(random.sample(range(100000, 999999), 2000))

    def pay(day: date, vendor: str, invoice: str, cents: int, status: str = "paid") -> str:
        row = {
            "id": f"P{next(ids)}", "date": day.isoformat(), "vendor": vendor, "invoice": invoice,
            "amount": f"{cents / 100:.2f}", "status": status,
        }  # fmt: skip
        rows.append(row)
        return row["id"]

    pairs: list[tuple[str, str, int]] = []
    for number in range(700):
        day = date(2024, 1, 1) + timedelta(days=random.randrange(330))
        vendor, cents = random.choice(VENDORS), random.choice([9900, 25000, random.randrange(1000, 900000)])
        body = f"{random.randrange(1, 99):03}0{number}"
        invoice = f"RO-{body}"
        kind = random.random()
        first = pay(day, vendor, invoice, cents, "reversed" if kind < 0.03 else "paid")
        later = day + timedelta(days=random.randrange(1, 11))
        if kind < 0.03:
            pay(later, vendor, invoice, cents)
        elif kind < 0.07:
            written = random.choice([f"ro{body}", f"R0 {body}", f"RO/{body.lstrip('0')}", f"RO-00{body}", invoice])
            pairs.append((first, pay(later, vendor, written, cents), cents))
        elif kind < 0.09:
            pay(day + timedelta(days=random.randrange(11, 20)), vendor, invoice, cents)
        elif kind < 0.11:
            pay(later, vendor, invoice, cents + 100)
        elif kind < 0.13:
            pay(later, random.choice([other for other in VENDORS if other != vendor]), invoice, cents)
        elif kind < 0.16:
            pay(later, vendor, f"RO-{body}1", cents)
        elif kind < 0.18:
            pay(later, vendor, invoice, cents, "reversed")
    random.shuffle(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    total = sum(cents for _, _, cents in pairs)
    lines = sorted(f"{first},{second}" for first, second, _ in pairs)
    return {"payments.csv": text.getvalue()}, {"pairs": lines, "sum": f"{total / 100:.2f}"}
