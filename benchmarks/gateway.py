"""What the gateway adds to a model call, how many agents it serves at once, and what an episode costs.

`python -m benchmarks.gateway`; with `--quick`, a tenth of the samples. The policy answers from a process of
its own. The peer is verifiers' own interception server with its Docker runtime: same program, same policy.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import verifiers_interception
from benchmarks.contenders.kumite_agents import KumiteAgents, printed
from benchmarks.figures import compare_rates, format_ms, format_verdict, percentile
from benchmarks.scaling.saturation import mean_in_flight, start_policy_server
from sandbox_images.build import build_image

MEDIAN, P99, FIRST_BYTE, IN_FLIGHT, TIMES = 0.002, 0.010, 0.005, 0.97, 3.0
AGENTS, LATENCY = 128, 1.0
PROGRAM = Path(__file__).parent / "contenders" / "two_call_agent.py"
_AT_ONCE = 8
"""Episodes at a time, beside the peer."""


def main() -> None:
    """Measures one after the other, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--only", choices=["latency", "agents", "episodes"], help="one part of it")
    arguments = parser.parse_args()
    scale = 0.1 if arguments.quick else 1.0
    console = Console(width=150)
    machine.print_header(console, "The gateway: agents without a network, and what they cost")
    image = build_image("agent-command", on_line=lambda line: console.print(line, style="dim"))
    program = PROGRAM.read_text()
    table = Table(show_lines=True)
    for column in ("measure", "Kumite", "beside", "target"):
        table.add_column(column)
    if arguments.only in (None, "latency"):
        for stream in (False, True):
            _add_latency(table, program, max(40, int(1000 * scale)), stream)
    if arguments.only in (None, "agents"):
        _add_agents(table, image, program, max(4, int(20 * scale)))
    if arguments.only in (None, "episodes"):
        _add_episodes(table, image, program, max(24, int(80 * scale)))
    console.print(table)


def _add_latency(table: Table, program: str, calls: int, stream: bool) -> None:
    """One program that asks the policy directly, and the same through the gateway: to the first byte."""
    arguments = [str(calls), *(["stream"] if stream else [])]
    # Without a container, so that both are the same interpreter: the pipe and the relay are the same.
    here = {"backend": "process", "recycle": "fork", "unsafe": True}
    with start_policy_server(0.0, "") as url:
        direct = _direct(program, [str(calls)], url)
        agents = KumiteAgents("none", [sys.executable, "-c", program, *arguments], url, 1, here)
        try:
            through = _in_seconds(printed(agents.play(1)["records"][0]))
        finally:
            agents.stop()
        direct += _direct(program, [str(calls)], url)
    added = median(through) - median(direct)
    added_p99 = percentile(through, 99) - percentile(direct, 99)
    name = "streamed call, first byte" if stream else "call"
    goal = (
        f"first byte ≤ {format_ms(FIRST_BYTE)}"
        if stream
        else f"median ≤ {format_ms(MEDIAN)}, p99 ≤ {format_ms(P99)}"
    )
    is_met = added <= FIRST_BYTE if stream else added <= MEDIAN and added_p99 <= P99
    table.add_row(
        f"added to one {name} ({calls} calls)",
        f"median {format_ms(added)}, p99 {format_ms(added_p99)}",
        f"directly: median {format_ms(median(direct))}, p99 {format_ms(percentile(direct, 99))}",
        f"{goal} {'✓' if is_met else '✗'}",
    )


def _direct(program: str, arguments: list[str], url: str) -> list[float]:
    variables = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=True)
    return _in_seconds(json.loads(done.stdout))


def _in_seconds(microseconds: list[int]) -> list[float]:
    return [each / 1e6 for each in microseconds]


def _add_agents(table: Table, image: str, program: str, calls: int) -> None:
    """So many agents at once, each a process in one container; the policy takes a second for an answer."""
    room = {"recycle": "fork", "unsafe": True, "max_sessions": AGENTS, "memory_mb": 6144, "pids": 2048}
    with start_policy_server(LATENCY, "") as url:
        agents = KumiteAgents(image, ["python3", "-c", program, str(calls)], url, AGENTS, room)
        try:
            agents.play(AGENTS)
        finally:
            agents.stop()
        with urllib.request.urlopen(f"{url}/load") as answer:
            load: list[tuple[float, int]] = [(moment, level) for moment, level in json.load(answer)]
    full = [moment for moment, level in load if level >= IN_FLIGHT * AGENTS]
    peak = max(level for _, level in load)
    mean = mean_in_flight(load, full[0], full[-1]) / AGENTS if len(full) > 1 else 0.0
    table.add_row(
        f"{AGENTS} agents at once, policy answering in {LATENCY:g} s",
        f"{mean:.1%} of {AGENTS} requests in flight, peak {peak}",
        "",
        format_verdict(1 - mean, 1 - IN_FLIGHT, f"≥ {IN_FLIGHT:.0%}"),
    )


def _add_episodes(table: Table, image: str, program: str, episodes: int) -> None:
    """Whole episodes of two calls, beside the peer; ours are graded as well."""
    with start_policy_server(0.0, "") as url:
        peer = asyncio.run(verifiers_interception.play(image, program, url, episodes, _AT_ONCE))
        for name, sandbox in (
            ("a container an episode", {}),
            ("a forked session an episode", {"recycle": "fork", "unsafe": True}),
        ):
            agents = KumiteAgents(image, ["python3", "-c", program], url, _AT_ONCE, sandbox)
            try:
                agents.play(2)
                ours = agents.play(episodes)
            finally:
                agents.stop()
            _add_rates(table, name, ours, peer, episodes)


def _add_rates(table: Table, name: str, ours: dict[str, Any], peer: dict[str, Any], episodes: int) -> None:
    assert ours["calls"] == peer["calls"] == 2 * episodes
    rate, peer_rate = episodes / ours["seconds"], episodes / peer["seconds"]
    table.add_row(
        f"episodes of two calls, {name}",
        f"{rate:.2f}/s, worker's CPU {format_ms(ours['cpu'] / episodes)} an episode",
        f"verifiers: {peer_rate:.2f}/s, CPU {format_ms(peer['cpu'] / episodes)} an episode",
        compare_rates(rate, peer_rate, TIMES),
    )


if __name__ == "__main__":
    main()
