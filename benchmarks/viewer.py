"""How long the viewer takes to start, and to show, filter, sort and search a large run.

`kumite view` is started as a user starts it, and asked over HTTP as its page asks. Prints one table.
Run: python -m benchmarks.viewer [--episodes 100000] [--run FOLDER]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx

from cluster.dataset.manifest import Manifest, Shard, write_manifest
from cluster.dataset.shards import compact
from cluster.observe.summary import summarise_run, write_summary
from tests.cluster.synthetic import episode, write_segment

PER_SHARD = 512
REPEATS = 5
Measured: TypeAlias = tuple[float, float]
"""Seconds, and those of them in which the server had a CPU."""


def write_large_run(run_dir: Path, episodes: int) -> None:
    """Writes a run of so many episodes, in shards and with a summary, as a run that has ended leaves them."""
    shards: list[Shard] = []
    for folder in ("episodes", "steps", "journal"):
        (run_dir / folder).mkdir(parents=True)
    for number, first in enumerate(range(0, episodes, PER_SHARD), start=1):
        records = [
            episode(
                index,
                task_id=f"banking/user_task_{index // 8}",
                sample_index=index % 8,
                reward=float(index * 7919 % 13 > 6),
                metrics=f'{{"utility": {index % 2}.0, "attack_success": null, "score": {index % 97 / 97}}}',
            )
            for index in range(first, min(first + PER_SHARD, episodes))
        ]
        segment = write_segment(run_dir / "journal" / f"{number:06d}.jsonl", records)
        shards.append(compact(segment, run_dir))
        segment.unlink()
    write_manifest(run_dir, Manifest(run_id="run-1", planned=episodes, shards=shards))
    write_summary(run_dir, summarise_run(run_dir, wall_seconds=3600.0))


class ServedRun:
    """A `kumite view` at work on a run, asked over HTTP as its page asks.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._begun = time.perf_counter()
        command = [sys.executable, "-m", "cluster", "view", str(run), "--no-browser"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._address = urlsplit(self._process.stdout.readline().strip())
        self.started = self._measure(self._begun, 0.0)
        self._base = f"/api/runs/{self._address.fragment.rpartition('/')[2]}"
        self._client = httpx.Client(base_url=f"http://{self._address.netloc}", timeout=600)

    def __enter__(self) -> "ServedRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(60)

    def open(self) -> Measured:
        """Fetches the files that the page is made of."""
        begun, cpu = time.perf_counter(), self._cpu()
        self._client.get(f"/?{self._address.query}", follow_redirects=True).raise_for_status()
        for path in ("/assets/page.js", "/assets/page.css"):
            self._client.get(path).raise_for_status()
        return self._measure(begun, cpu)

    def ask(self, path: str) -> Measured:
        """Asks one of the run's addresses."""
        begun, cpu = time.perf_counter(), self._cpu()
        self._client.get(f"{self._base}{path}").raise_for_status()
        return self._measure(begun, cpu)

    def ask_often(self, path: str) -> Measured:
        """The median of several times."""
        return sorted(self.ask(path) for _ in range(REPEATS))[REPEATS // 2]

    def _measure(self, begun: float, cpu: float) -> Measured:
        return time.perf_counter() - begun, self._cpu() - cpu

    def _cpu(self) -> float:
        """Seconds of CPU that the server has had so far; 0 on a machine without /proc."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_viewer(run: Path, episodes: int) -> list[tuple[str, Measured, float]]:
    """What is measured: its name, the seconds and those of the server's CPU, and the target."""
    middle = f"{episodes // 2:016x}"
    with ServedRun(run) as served:
        opened, page = served.open(), served.ask("/episodes?count=100")
        rows = [
            ("command to address", served.started, 1.0),
            ("address to the first page of episodes", add(opened, page), 1.0),
            ("index complete", served.ask("/progress"), 0.0),
        ]
        for name, path, target in (
            ("filter by a metric", "/episodes?where=metric.utility%3D1", 0.3),
            ("filter by a part of a text", "/episodes?where=task_id~task_12", 0.3),
            ("sort", "/episodes?sort=-metric.score", 0.3),
            (
                "filter and sort, last page",
                f"/episodes?where=reward%3C1&sort=seconds_total&first={episodes // 3}",
                0.3,
            ),
            ("group by task", "/episodes?by=task&sort=-reward_deviation", 0.3),
            ("one episode", f"/episodes/{middle}", 0.3),
        ):
            rows.append((name, served.ask_often(path), target))
        search = "/episodes?search=pay%20the%20bill"
        rows += [
            ("search in messages, first time", served.ask(search), 0.0),
            ("the same again", served.ask_often(search), 0.3),
            ("tools, first time", served.ask("/tools"), 0.0),
        ]
    with ServedRun(run) as served:
        opened, brief, whole = served.open(), served.ask("/brief"), served.ask("")
        rows.append(("address to the run's page: its head", add(opened, brief), 1.0))
        rows.append(("address to the run's page: all figures", add(opened, brief, whole), 0.0))
    return rows


def add(*measured: Measured) -> Measured:
    return sum(one for one, _ in measured), sum(cpu for _, cpu in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--run", type=Path, help="A run that was written before. Default: a new one.")
    given = parser.parse_args()
    episodes: int = given.episodes
    folder = Path(tempfile.mkdtemp())
    try:
        run: Path = given.run or folder / "run"
        if given.run is None:
            write_large_run(run, episodes)
        rows = measure_viewer(run, episodes)
        print(f"{episodes:,} episodes in {-(-episodes // PER_SHARD)} shards\n")
        print("| step | seconds | of them CPU | target |\n|---|---|---|---|")
        for name, (seconds, cpu), target in rows:
            print(f"| {name} | {seconds:.3f} | {cpu:.2f} | {f'{target:.1f}' if target else '–'} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
