"""Configurations of a fleet, equal but for one setting on one host."""

from random import Random

SETTINGS = {
    "worker_processes": ["8", "4"],
    "keepalive_timeout": ["65", "75"],
    "client_max_body_size": ["20m", "200m"],
    "server_tokens": ["off", "on"],
    "ssl_session_timeout": ["1d", "10m"],
    "proxy_read_timeout": ["60s", "600s"],
    "gzip_comp_level": ["5", "6"],
    "access_log": ["/var/log/web/access.log", "/var/log/web/acces.log"],
    "error_log_level": ["warn", "debug"],
    "upstream_retries": ["2", "12"],
    "cache_max_size": ["10g", "1og"],
    "rate_limit": ["100r/s", "1000r/s"],
}
REMARKS = ["# managed by ansible", "# see ticket OPS-{}", "## limits", "# keepalive_timeout=1", "# changed {} times"]


def generate(random: Random) -> tuple[dict[str, str], str]:
    cities = "bern basel chur genf zug thun biel olten".split()
    hosts = [f"web-{city}-{number}" for city in cities for number in (1, 2, 3)]
    odd, setting = random.choice(hosts), random.choice(list(SETTINGS))
    files: dict[str, str] = {}
    for host in hosts:
        lines = []
        for name, (usual, other) in SETTINGS.items():
            value = other if (host, name) == (odd, setting) else usual
            sign = random.choice(["=", " = ", "= ", "   ="])
            lines.append(f"{name}{sign}{value}" + random.choice(["", "", "  "]))
        lines += [random.choice(REMARKS).format(random.randrange(1000)) for _ in range(random.randrange(3, 9))]
        lines += [""] * random.randrange(4)
        random.shuffle(lines)
        files[f"hosts/{host}.conf"] = "\n".join(lines) + "\n"
    return files, f"{odd} {setting} {SETTINGS[setting][1]}"
