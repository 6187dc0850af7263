"""What an episode's tool resources cost: Kumite's sandbox, beside a container per episode and `docker exec`.

`python -m benchmarks.sandbox`; with `--quick`, a tenth of the samples.
"""

import argparse
import asyncio
import random
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import docker_sdk, verifiers_docker
from benchmarks.contenders.kumite_sandbox import CALLS, LIVE, KumiteSandbox
from benchmarks.figures import format_ms, format_verdict, median_and_p95
from sandbox_images.build import build_image
from workers.environments.agentdojo.tasks import TaskSelection, make_rows

OPEN_TARGET = 0.015
CALL_TARGET = 0.0006
AT_ONCE = 16
PAIRS = 200
_LIMIT = 900.0
"""Seconds for each contender."""


def main() -> None:
    """Measures one after the other, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    scale = 0.1 if parser.parse_args().quick else 1.0
    console = Console(width=160)
    machine.print_header(
        console, "Sandbox: AgentDojo v1.2.2, workspace suite under attack important_instructions"
    )
    image = build_image("agentdojo", on_line=lambda line: console.print(line, style="dim"))
    pairs = _choose_pairs(max(LIVE, int(PAIRS * scale)))
    with docker_sdk.connect_engine() as client:
        kumite = KumiteSandbox(client, image, pairs, scale)
        ours = asyncio.run(_within_limit(kumite.measure(AT_ONCE)))
        verifiers = asyncio.run(_within_limit(verifiers_docker.measure(image, AT_ONCE, scale)))
        docker = docker_sdk.measure(client, image, pairs, AT_ONCE, scale)
    console.print(_make_table(ours, docker, verifiers))


async def _within_limit(measuring: Any) -> Any:
    async with asyncio.timeout(_LIMIT):
        return await measuring


def _choose_pairs(count: int) -> list[dict[str, Any]]:
    selection = TaskSelection(
        suites=["workspace"], mode=["attack"], attack="important_instructions", attack_model="local"
    )
    pairs = [row["info"] for row in make_rows(selection)]
    return random.Random(0).sample(pairs, count)


def _make_table(ours: dict[str, Any], docker: dict[str, Any], verifiers: dict[str, Any]) -> Table:
    table = Table(show_lines=True, caption="Median, 95th percentile. A peer's command does no tool's work.")
    table.add_column("measure")
    table.add_column("Kumite: a forked session")
    table.add_column("docker SDK: a container an episode")
    table.add_column("verifiers' Docker runtime")
    table.add_column("target")
    opened = median(ours["open"])
    table.add_row(
        "open + close, task seen before",
        median_and_p95(ours["open"]),
        median_and_p95(docker["open"]),
        f"{median_and_p95(verifiers['open'])}\n(start + stop, nothing set up)",
        format_verdict(opened, OPEN_TARGET, f"≤ {format_ms(OPEN_TARGET)}"),
    )
    table.add_row("open + close, new task", median_and_p95(ours["first open"]), "as above", "as above", "")
    table.add_row(
        f"{AT_ONCE} opens at once, until the last",
        median_and_p95(ours["at once"]),
        format_ms(docker["at once"][0]),
        f"{format_ms(verifiers['at once'][0])}\n(nothing set up)",
        "",
    )
    for name, suite in CALLS.items():
        table.add_row(
            f"tool call: {suite}, {name}",
            median_and_p95(ours[name]),
            _command_rows(docker, "docker exec"),
            _command_rows(verifiers, "run"),
            format_verdict(median(ours[name]), CALL_TARGET, f"≤ {format_ms(CALL_TARGET)}"),
        )
    table.add_row(
        "container from cold",
        f"{median_and_p95(ours['cold'])}\n(four suites loaded; once a worker)",
        "every open",
        "every open",
        "",
    )
    table.add_row(
        "memory of one more live session",
        f"{ours['memory'] / 2**20:.1f} MiB (mean of {LIVE})",
        f"{docker['memory'] / 2**20:.1f} MiB",
        "–",
        "",
    )
    return table


def _command_rows(found: dict[str, Any], how: str) -> str:
    true, python = format_ms(median(found["true"])), format_ms(median(found["python"]))
    return f"{how} true: {true}\n{how} python3 -c pass: {python}"


if __name__ == "__main__":
    main()
