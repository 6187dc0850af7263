"""Rotated logs of a shop, in which one worker's clock is an hour ahead."""

import gzip
from datetime import datetime, timedelta
from random import Random

START = datetime(2024, 5, 2, 6, 0)


def generate(random: Random) -> tuple[dict[str, bytes | str], dict[str, object]]:
    events: list[tuple[float, str]] = []
    deployed = sorted(random.sample(range(30, 690), 6))
    releases = [f"r{number}" for number in random.sample(range(300, 900), 6)]
    for minute, release in zip(deployed, releases, strict=True):
        events.append((minute * 60, f"INFO deploy release={release} by=ci"))
    broken = deployed[random.randrange(2, 5)] * 60
    failures: list[tuple[float, str, str]] = []
    for request in random.sample(range(16**5, 16**6), 2600):
        second, worker = random.uniform(0, 12 * 3600), f"w{random.randrange(1, 6)}"
        user, name = f"u{random.randrange(1000, 9999)}", f"{request:06x}"
        events.append((second, f"INFO [{worker}] req={name} begin user={user} path=/checkout"))
        if second > broken and random.random() < 0.08:
            gateway = random.choice(["eu-gw", "us-gw"])
            failed = second + random.uniform(1, 4)
            for _ in range(random.choice([1, 1, 2, 3])):
                events.append((failed, f"ERROR [{worker}] req={name} PaymentTimeout gateway={gateway} after=3000ms"))
                failed += random.uniform(0.2, 1)
            failures.append((min(at for at, said in events[-3:] if f"req={name} Pay" in said), name, user))
        elif random.random() < 0.01:
            events.append((second + 1, f"ERROR [{worker}] req={name} PaymentTimeout gateway=sandbox-gw after=50ms"))
        elif random.random() < 0.02:
            events.append((second + 1, f"ERROR [{worker}] req={name} CardDeclined gateway=eu-gw"))
        else:
            events.append((second + 1, f"INFO [{worker}] req={name} done status=200"))
    events.sort()
    lines = [
        f"{START + timedelta(seconds=second + 3600 * ('[w3]' in said)):%Y-%m-%dT%H:%M:%S.%f} {said}\n"
        for second, said in events
    ]
    share = len(lines) // 5
    parts = ["".join(lines[share * part : None if part == 4 else share * (part + 1)]) for part in range(5)]
    files: dict[str, bytes | str] = {"logs/shop.log": parts[4], "logs/shop.log.1": parts[3]}
    for age, text in ((2, parts[2]), (3, parts[1]), (4, parts[0])):
        files[f"logs/shop.log.{age}.gz"] = gzip.compress(text.encode(), mtime=0)
    first, request, user = min(failures)
    release = [name for minute, name in zip(deployed, releases, strict=True) if minute * 60 < first][-1]
    return files, {"request": request, "user": user, "release": release, "failures": len(failures)}
