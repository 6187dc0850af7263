"""Two machines' logs of the same requests; the server's clock is set once in between."""

from random import Random


def generate(random: Random) -> tuple[dict[str, str], dict[str, object]]:
    before = random.randrange(2000, 90000)
    after = random.choice([-1, 1]) * random.randrange(3000, 60000)
    change = random.randrange(120, 280)
    client: list[tuple[int, str]] = []
    server: list[str] = []
    requests: list[tuple[str, int, int, int, int]] = []
    now = 36_000_000  # far enough from midnight for any offset
    for number in range(400):
        now += random.randrange(900, 3000)
        offset = before if number < change else after
        name = f"{random.randrange(16**8):08x}"
        there, work, back = (round(5 + random.expovariate(1 / 40)) for _ in range(3))
        sent, came = now, now + min(there, 400)
        answered = came + work
        received = answered + min(back, 400)
        seen = random.random()
        if seen > 0.06:
            client.append((sent, f"{clock(sent)} SEND {name}"))
            client.append((received, f"{clock(received)} RECV {name}"))
        if not 0.06 < seen < 0.12:
            server.append(f"{clock(came + offset)} IN {name}")
            server.append(f"{clock(answered + offset)} OUT {name}")
        if seen >= 0.12:
            requests.append((name, sent, came + offset, answered + offset, received))
        elif number in (change - 1, change):
            return generate(random)
    first_after = next(place for place in range(len(requests)) if is_after(requests[place], before))
    client.sort()
    files = {
        "client.log": "".join(f"{line}\n" for _, line in client),
        "server.log": "".join(f"{line}\n" for line in server),
    }
    return files, {
        "before": interval(requests[:first_after]),
        "after": interval(requests[first_after:]),
        "changed_after": requests[first_after - 1][0],
    }


def is_after(request: tuple[str, int, int, int, int], offset: int) -> bool:
    _, sent, came, _, received = request
    return not sent <= came - offset <= received


def interval(requests: list[tuple[str, int, int, int, int]]) -> list[int]:
    lowest = max(answered - received + 5 for _, _, _, answered, received in requests)
    highest = min(came - sent - 5 for _, sent, came, _, _ in requests)
    return [lowest, highest]


def clock(ms: int) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
