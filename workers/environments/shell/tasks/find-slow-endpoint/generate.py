"""An access log in which the slowest endpoint is not the one that looks slow."""

import statistics
from random import Random

ENDPOINTS = {
    "GET /": 9, "GET /users/{}": 8, "POST /users": 3, "GET /users/{}/orders": 6, "GET /orders/{}": 6,
    "PUT /orders/{}": 3, "DELETE /orders/{}": 2, "GET /search": 7, "GET /reports/{}/pdf": 1, "POST /login": 4,
    "GET /health": 9, "GET /v2/items/{}/reviews/{}": 4, "POST /uploads": 2,
}  # fmt: skip


def generate(random: Random) -> tuple[dict[str, str], dict[str, object]]:
    slow, spiky, failing = random.sample([name for name in ENDPOINTS if name != "GET /reports/{}/pdf"], 3)
    lines: list[str] = []
    times: dict[str, list[float]] = {}
    for number in range(9000):
        name = random.choices(list(ENDPOINTS), ENDPOINTS.values())[0]
        typical = {slow: 240, spiky: 120, failing: 100}.get(name, 40 + 6 * len(name))
        took = round(random.lognormvariate(0, 0.4) * typical, 1)
        status = random.choices([200, 304, 404, 500], [90, 4, 4, 2])[0]
        if name == spiky and random.random() < 0.1:
            took = round(took * 60, 1)
        if name == failing and random.random() < 0.6:
            took, status = 5000.0 + random.randrange(100), 503
        if name == "GET /reports/{}/pdf":
            if number % 23:
                continue
            took = round(took * 40, 1)
        method, path = name.split(" ")
        path = path.format(*(random.randrange(1, 5000) for _ in range(path.count("{}"))))
        if random.random() < 0.3:
            path += f"?page={random.randrange(9)}&ref=/users/{random.randrange(99)}"
        stamp = f"{10 + number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
        line = f'10.0.{random.randrange(9)}.{random.randrange(255)} - - [04/Apr/2024:{stamp} +0000] "{method} {path} HTTP/1.1" {status} {random.randrange(100, 9000)} {took}'
        if random.random() < 0.004:
            lines.append(line[: random.randrange(20, len(line) - 12)])
            continue
        lines.append(line)
        if status < 500:
            times.setdefault(name.replace("{}", ":id"), []).append(took)
    medians = {name: statistics.median(taken) for name, taken in times.items() if len(taken) >= 50}
    slowest = max(medians, key=lambda name: medians[name])
    expected = {"endpoint": slowest, "requests": len(times[slowest]), "median": medians[slowest]}
    return {"access.log": "\n".join(lines) + "\n"}, expected
