"""An endpoint that allows 10 requests a second and answers 429 beyond, beside verifiers' own runner.

`python -m benchmarks.endpoint`; `--episodes N` plays more or fewer than 200, of two requests each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import looking_around, verifiers_runner
from benchmarks.contenders.limited_endpoint import LimitedEndpoint
from cluster.dataset.arrow import pq

RATE = 10.0
USED, REFUSED = 0.9, 0.05
"""Goals: at least this share of the allowed rate is used, and at most so many refusals come to one answer."""
_LATENCY = 0.5
_AT_ONCE = 32
"""Episodes at once, on both sides: two workers with 16 places each."""
_LIMIT = 900


def main() -> None:
    """Measures verifiers' runner, then Kumite, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    episodes = parser.parse_args().episodes
    console = Console(width=120)
    machine.print_header(
        console, f"An endpoint that allows {RATE:g} requests a second; {episodes} episodes of two turns"
    )
    table = Table(title=f"{_AT_ONCE} episodes at once")
    for column in ("", "finished", "seconds", "allowed rate used", "refusals per answer"):
        table.add_column(column, justify="left" if not column else "right")
    with LimitedEndpoint(RATE, _LATENCY) as endpoint:
        whole = _play_verifiers(endpoint, episodes)
        _add_row(table, "verifiers' own runner", whole, episodes, endpoint)
        endpoint.reset()
        whole = _play_kumite(endpoint, episodes)
        _add_row(table, "Kumite", whole, episodes, endpoint)
    console.print(table)


def _add_row(table: Table, name: str, whole: int, episodes: int, endpoint: LimitedEndpoint) -> None:
    used = endpoint.answered / (RATE * endpoint.seconds)
    refused = endpoint.refused / endpoint.answered
    table.add_row(
        name,
        f"{whole} of {episodes} {_style_mark(whole == episodes)}",
        f"{endpoint.seconds:.1f}",
        f"{used:.1%} {_style_mark(used >= USED)}",
        f"{refused:.1%} {_style_mark(refused <= REFUSED)}",
    )


def _style_mark(good: bool) -> str:
    return "[green]✓[/green]" if good else "[red]✗[/red]"


def _play_verifiers(endpoint: LimitedEndpoint, episodes: int) -> int:
    program = [
        sys.executable,
        "-m",
        verifiers_runner.__name__,
        endpoint.base_url,
        str(episodes),
        str(_AT_ONCE),
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=_LIMIT, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["whole"])


def _play_kumite(endpoint: LimitedEndpoint, episodes: int) -> int:
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        config: dict[str, Any] = {
            "name": "endpoint",
            "environment": {"id": str(Path(looking_around.__file__)), "args": {"tasks": episodes}},
            "policy": {
                "kind": "endpoint",
                "base_url": endpoint.base_url,
                "model": "limited",
                "sampling": {"max_tokens": 64},
            },
            "workers": {"min": 2, "max": 2, "episodes_per_worker": _AT_ONCE // 2},
        }
        path = Path(folder, "endpoint.yaml")
        path.write_text(yaml.safe_dump(config))
        run = Path(folder, "run")
        command = [sys.executable, "-m", "cluster", "run", str(path), "--out", str(run)]
        environment = {**os.environ, "KUMITE_CACHE": str(Path(folder, "cache"))}
        subprocess.run(command, env=environment, timeout=_LIMIT, check=True)
        rewards = pq.read_table(run / "episodes", columns=["reward"]).column("reward").to_pylist()
    return sum(reward == 1.0 for reward in rewards)


if __name__ == "__main__":
    main()
