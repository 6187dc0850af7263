"""How long the viewer takes to start, and to show, filter, sort and search a large run.

Prints one table. Run: python -m benchmarks.viewer [--episodes 100000]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from cluster.dataset.manifest import Manifest, Shard, write_manifest
from cluster.dataset.shards import compact
from cluster.viewer.library import Library
from cluster.viewer.server import build_app
from tests.cluster.synthetic import episode, write_segment

PER_SHARD = 512
REPEATS = 5


def write_large_run(run_dir: Path, episodes: int) -> None:
    """Writes a run of so many episodes, in shards as the dataset has them."""
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


def median_seconds(ask: Callable[[], Any]) -> float:
    taken: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[REPEATS // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    episodes: int = parser.parse_args().episodes
    folder = Path(tempfile.mkdtemp())
    try:
        run = folder / "run"
        write_large_run(run, episodes)
        start = time.perf_counter()
        library = Library([str(run)])
        client = TestClient(build_app(library, "token"))
        client.get("/?token=token")
        base = f"/api/runs/{library.runs[0].key}"
        rows = [("start", time.perf_counter() - start, 1.0)]

        def ask(path: str) -> None:
            answer = client.get(f"{base}{path}")
            assert answer.status_code == 200, answer.text

        start = time.perf_counter()
        ask("/episodes?count=100")
        rows.append(("first page", time.perf_counter() - start, 1.0))
        start = time.perf_counter()
        ask("/progress")
        rows.append(("index, read while the first page is looked at", time.perf_counter() - start, 0.0))
        middle = f"{episodes // 2:016x}"
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
            rows.append((name, median_seconds(lambda path=path: ask(path)), target))
        start = time.perf_counter()
        ask("/episodes?search=pay%20the%20bill")
        rows.append(("search in messages, first time", time.perf_counter() - start, 0.0))
        rows.append(("the same again", median_seconds(lambda: ask("/episodes?search=pay%20the%20bill")), 0.3))
        rows.append(("run page, first time", median_seconds(lambda: ask("")), 1.0))
        print(f"{episodes:,} episodes in {-(-episodes // PER_SHARD)} shards\n")
        print("| step | seconds | target |\n|---|---|---|")
        for name, seconds, target in rows:
            print(f"| {name} | {seconds:.3f} | {f'{target:.1f}' if target else '–'} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
