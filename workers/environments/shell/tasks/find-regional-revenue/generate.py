"""Customers, orders and rates of a shop, with what such exports are usually spoilt by."""

import json
from datetime import date, timedelta
from random import Random

REGIONS = ["north", "south", "east", "west", "overseas"]


def generate(random: Random) -> tuple[dict[str, str], dict[str, float]]:
    customers: dict[int, tuple[str, int | None]] = {}
    for number in range(1, 301):
        into = random.randrange(1, number) if number > 20 and random.random() < 0.2 else None
        customers[number] = (random.choice(REGIONS), into)
    rates = {
        currency: {f"2024-{month:02}": round(value * random.uniform(0.95, 1.05), 4) for month in range(1, 13)}
        for currency, value in {"CHF": 1, "EUR": 0.97, "USD": 0.9, "GBP": 1.14}.items()
    }
    rates["CHF"] = dict.fromkeys(rates["CHF"], 1.0)
    totals: dict[str, float] = {}
    lines = ["order,customer,ordered,status,currency,amount"]
    for order in range(1, 2501):
        day = date(2024, 2, 1) + timedelta(days=random.randrange(210))
        customer = random.randrange(1, 306)
        status = random.choices(["shipped", "delivered", "cancelled", "returned", "open"], [3, 5, 1, 1, 1])[0]
        currency, amount = random.choice(list(rates)), round(random.lognormvariate(5, 1.2), 2)
        written = random.choice([day.isoformat(), day.strftime("%d.%m.%Y")])
        money = f"{amount:,.2f}".replace(",", "'")
        lines.append(f"{order},{customer},{written},{status},{currency},{money}")
        if status in ("shipped", "delivered") and 4 <= day.month <= 6:
            while customer in customers and (into := customers[customer][1]) is not None:
                customer = into
            region = customers[customer][0] if customer in customers else "unknown"
            totals[region] = totals.get(region, 0.0) + amount * rates[currency][f"2024-{day.month:02}"]
    table = ["id,region,merged_into"]
    table += [f"{number},{region},{into or ''}" for number, (region, into) in customers.items()]
    files = {
        "customers.csv": "\n".join(table) + "\n",
        "orders.csv": "\n".join(lines) + "\n",
        "rates.json": json.dumps(rates, indent=1),
    }
    return files, totals
