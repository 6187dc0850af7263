"""A day of an SSH server's log with one break-in."""

from random import Random

USERS = "root admin mira jonas deploy postgres backup nora git felix".split()


def generate(random: Random) -> tuple[dict[str, str], str]:
    def address() -> str:
        return ".".join(str(random.randrange(1, 255)) for _ in range(4))

    intruder, account = address(), random.choice(USERS)
    events: list[tuple[float, str]] = []

    def attempt(second: float, ip: str, user: str, ok: bool) -> None:
        port, pid = random.randrange(30000, 65000), random.randrange(1000, 9000)
        if ok:
            said = f"Accepted password for {user} from {ip} port {port} ssh2"
        elif user in USERS:
            said = f"Failed password for {user} from {ip} port {port} ssh2"
        else:
            said = f"Failed password for invalid user {user} from {ip} port {port} ssh2"
        events.append((second, f"sshd[{pid}]: {said}"))

    for ip in [intruder, *(address() for _ in range(6))]:
        second = random.uniform(0, 40000)
        for _ in range(random.randrange(25, 120)):
            second += random.expovariate(0.1)
            attempt(second, ip, random.choice([*USERS, "test", "oracle", "pi", "guest"]), ok=False)
        if ip == intruder:
            attempt(second + 3, ip, account, ok=True)
    for _ in range(60):
        second, ip, user = random.uniform(0, 86000), address(), random.choice(USERS[2:])
        for _ in range(random.choice([0, 0, 0, 1, 2, 4])):
            attempt(second, ip, user, ok=False)
            second += random.uniform(2, 9)
        attempt(second, ip, user, ok=True)
    for _ in range(400):
        job = random.choice(["run-parts /etc/cron.hourly", "fstrim", "logrotate"])
        events.append((random.uniform(0, 86000), f"CRON[{random.randrange(1000, 9000)}]: (root) CMD ({job})"))
    lines = [f"Mar  7 {clock(second)} bastion {said}" for second, said in sorted(events)]
    return {"auth.log": "\n".join(lines) + "\n"}, f"{intruder} {account}"


def clock(second: float) -> str:
    whole = int(second)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
