"""Memory of services over a night: one leaks, and hides it by restarts."""

import json
import statistics
from random import Random

SERVICES = ["api", "auth", "billing", "images", "mailer", "search", "sessions"]


def generate(random: Random) -> tuple[dict[str, str], dict[str, object]]:
    leaking = random.choice(SERVICES)
    others = [service for service in SERVICES if service != leaking]
    large, warming, waving = random.sample(others, 3)
    slope = random.uniform(0.25, 0.6)
    records: list[tuple[int, str, dict[str, object]]] = []
    slopes: list[float] = []
    for service in SERVICES:
        for pod_number in range(3):
            pod = f"{service}-{random.randbytes(3).hex()}"
            base = {large: 2100, warming: 300}.get(service, random.randrange(120, 400))
            life: list[tuple[int, float]] | None = None
            minute, since = random.randrange(20), 0
            if pod_number:
                minute, life = add_start(records, random, minute, service, pod)
                since = minute
            while minute < 480:
                minute += 1
                if service == leaking and random.random() < 0.016 or random.random() < 0.002:
                    slopes += fitted(life) if service == leaking else []
                    minute, life = add_start(records, random, minute, service, pod)
                    since = minute
                    continue
                age = minute - since
                use = base + random.gauss(0, 2.0)
                if service == leaking:
                    use += slope * age
                elif service == warming:
                    use += 180 * (1 - 0.97**age)
                elif service == waving:
                    use += 60 * abs((age % 90) - 45) / 45
                value = round(use, 1)
                records.append((minute, pod, {"service": service, "pod": pod, "minute": minute, "rss_mb": value}))
                if life is not None:
                    life.append((minute - since, value))
            slopes += fitted(life) if service == leaking else []
    records.sort(key=lambda record: record[:2])
    lines = [json.dumps(record) for _, _, record in records]
    expected = {"service": leaking, "mb_per_hour": round(statistics.median(slopes) * 60, 1)}
    return {"metrics.jsonl": "\n".join(lines) + "\n"}, expected


def add_start(
    records: list[tuple[int, str, dict[str, object]]], random: Random, minute: int, service: str, pod: str
) -> tuple[int, list[tuple[int, float]]]:
    reason = random.choice(["deploy", "node drained", "probe failed"])
    record = {"service": service, "pod": pod, "minute": minute, "event": "start", "reason": reason}
    records.append((minute, pod, record))
    return minute, []


def fitted(life: list[tuple[int, float]] | None) -> list[float]:
    if life is None or len(life) < 30:
        return []
    return [statistics.linear_regression([age for age, _ in life], [use for _, use in life]).slope]
