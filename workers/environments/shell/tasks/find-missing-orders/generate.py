"""A month of orders, some lost and some exported twice."""

import json
from random import Random


def generate(random: Random) -> tuple[dict[str, str], dict[str, list[str]]]:
    first, count = random.randrange(100, 5000), 1400
    numbers = list(range(first, first + count))
    lost = sorted(random.sample(numbers[1:-1], 17))
    kept = [number for number in numbers if number not in lost]
    doubled = sorted(random.sample(kept, 9))
    days: list[list[int]] = [[] for _ in range(30)]
    for place, number in enumerate(kept):
        days[place * 30 // len(kept)].append(number)
    for number in doubled:
        day = next(day for day, orders in enumerate(days) if number in orders)
        days[(day + random.randrange(1, 4)) % 30].append(number)
    files: dict[str, str] = {}
    for day, orders in enumerate(days, 1):
        random.shuffle(orders)
        content = [
            {"number": name(number), "cents": random.randrange(500, 90000), "replaces": name(random.choice(lost))}
            if random.random() < 0.05
            else {"number": name(number), "cents": random.randrange(500, 90000)}
            for number in orders
        ]
        files[f"orders/2024-06-{day:02}.json"] = json.dumps({"date": f"2024-06-{day:02}", "orders": content}, indent=1)
    return files, {"missing": list(map(name, lost)), "doubled": list(map(name, doubled))}


def name(number: int) -> str:
    return f"ORD-{number:06}"
