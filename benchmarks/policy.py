"""How busy rollouts keep vLLM: tokens/s of a run, beside vLLM's own benchmark client on the same server.

`python -m benchmarks.policy` brings up a deployment in a cache of its own (or uses the one that is kept in
the cache KUMITE_BENCHMARK_CACHE), plays AgentDojo's banking tasks once to warm it up and to learn the
prompts, lets vLLM's client send the same prompts for as many tokens at the same concurrency, and plays them
again. Then it says what the time to the first finished episode is made of: cold (Ray and the deployment are
not up; the sandbox image and the model are there), and with the deployment kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from cluster.dataset.episodes import iterate_records
from cluster.policy.models import packaged_model
from cluster.policy.vllm.kept_policy import KeptPolicy
from workers.policy.chat_template import ChatTemplate

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples" / "agentdojo.yaml"
TARGET = 0.95
_LIMIT = 900
"""Seconds for each contender."""
_PEER = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""


def main() -> None:
    """Measures both, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--episodes", type=int, default=16, help="user tasks to play")
    parser.add_argument("--at-once", type=int, default=8, help="episodes, and the client's requests, at once")
    parser.add_argument("--no-peer", action="store_true", help="the time to the first episode alone")
    options = parser.parse_args()
    console = Console(width=110)
    machine.print_header(
        console, "Policy: SmolLM2-135M by vLLM on the CPU, AgentDojo banking, user tasks alone"
    )
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        cache = Path(os.environ.get("KUMITE_BENCHMARK_CACHE") or Path(folder) / "cache")
        was_kept = (cache / "policy" / "kept.json").is_file()
        environment = {**os.environ, "KUMITE_CACHE": str(cache)}
        try:
            first = "kept" if was_kept else "cold"
            _measure(console, Path(folder), cache, environment, options, first)
        finally:
            if not was_kept:
                _kumite_command(environment, "policy", "down", "--force")


def _measure(
    console: Console,
    folder: Path,
    cache: Path,
    environment: dict[str, str],
    options: argparse.Namespace,
    first: str,
) -> None:
    _share_models(cache)
    runs = {first: _play(folder / "warm-up", environment, options)}
    peer = None if options.no_peer else _measure_or_read_peer(folder, cache, environment, options)
    runs["kept"] = _play(folder / "run", environment, options)
    if peer is not None:
        console.print(_print_rates(peer, folder / "run", options.at_once))
    console.print(_stage_table(runs))


def _measure_or_read_peer(
    folder: Path, cache: Path, environment: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    prompts = _write_prompts(folder / "warm-up", folder / "prompts.jsonl")
    kept = KeptPolicy.model_validate_json((cache / "policy" / "kept.json").read_bytes())
    return _measure_peer(kept, folder / "prompts.jsonl", prompts, environment, options.at_once)


def _print_rates(peer: dict[str, Any], run: Path, at_once: int) -> Table:
    """A run's tokens a second beside vLLM's client's."""
    rate, peer_rate = _token_rate(run), float(peer["output_throughput"])
    table = Table(title=f"Output tokens per second, {at_once} requests at once")
    for column in ("", "requests", "tokens", "tokens/s", "of the peer"):
        table.add_column(column, justify="left" if not column else "right")
    total = sum(int(length) for length in peer["output_lens"])
    table.add_row("vLLM's benchmark client", str(peer["completed"]), str(total), f"{peer_rate:.1f}", "100 %")
    reached = rate["tokens_per_second"] / peer_rate
    verdict = "✓" if reached >= TARGET else f"✗ (target {TARGET:.0%})"
    steady = "Kumite, from the first to the last full second"
    table.add_row(
        steady,
        str(rate["requests"]),
        str(rate["tokens"]),
        f"{rate['tokens_per_second']:.1f}",
        f"{reached:.0%} {verdict}",
    )
    return table


def _play(folder: Path, environment: dict[str, str], options: argparse.Namespace) -> dict[str, float]:
    """Plays a run; seconds from the command to its first finished episode, by stage."""
    overrides = {
        "environment.args.user_tasks": "null",
        "environment.args.mode": "[benign]",
        "workers.max": 1,
        "workers.episodes_per_worker": options.at_once,
        "limit": options.episodes,
        "samples": 1,
        "observe.every": 1,
    }
    sets = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    began = time.time()
    told = _kumite_command(environment, "run", str(CONFIG), *sets, "--out", str(folder))
    stages: dict[str, float] = {}
    for line in told.splitlines():
        if line.startswith("✓ "):
            name, seconds = line.removeprefix("✓ ").split()[:2]
            stages[name] = float(seconds)
    ready = float(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["time"])
    first = min(
        episode.started_at + episode.timings.total - episode.timings.queue
        for episode in iterate_records(folder)
    )
    parts = {"Python": ready - began - sum(stages.values()), **stages, "first episode": first - ready}
    return parts | {"all": first - began}


def _kumite_command(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "cluster", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=_LIMIT, check=True
    )
    return done.stdout


def _write_prompts(run: Path, file: Path) -> int:
    """Writes what the policy was asked in a run, as vLLM's client takes it; gives the number of requests."""
    template = ChatTemplate(str(packaged_model.folder()))
    steps = [step for episode in iterate_records(run) for step in episode.steps]
    with file.open("w") as lines:
        for step in steps:
            prompt = template.decode(step.prompt_token_ids or [])
            row = {"prompt": prompt, "output_tokens": len(step.completion_token_ids or [])}
            lines.write(json.dumps(row) + "\n")
    return len(steps)


def _measure_peer(
    kept: KeptPolicy, prompts: Path, requests: int, environment: dict[str, str], at_once: int
) -> dict[str, Any]:
    result = prompts.with_name("peer.json")
    root = kept.base_url.removesuffix("/v1")
    options = {
        "--backend": "openai",
        "--base-url": root,
        "--endpoint": "/v1/completions",
        "--model": kept.model,
        "--tokenizer": str(packaged_model.folder()),
        "--dataset-name": "custom",
        "--dataset-path": str(prompts),
        "--custom-output-len": "-1",
        "--num-prompts": str(requests),
        "--max-concurrency": str(at_once),
        "--temperature": "1.0",
        "--result-dir": str(result.parent),
        "--result-filename": result.name,
    }
    words = [word for pair in options.items() for word in pair]
    switches = ["--skip-chat-template", "--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"]
    subprocess.run(
        [sys.executable, "-c", _PEER, *words, *switches, "--disable-shuffle"],
        env={**environment, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        timeout=_LIMIT,
        check=True,
    )
    return json.loads(result.read_text())


def _token_rate(run: Path) -> dict[str, Any]:
    """Tokens a second while all places were taken, by vLLM's own count; requests and tokens of the run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line]
    seen = [line for line in lines if line["policy"] is not None]
    full = max(line["in_flight"] for line in seen)
    steady = [line for line in seen if line["in_flight"] == full and line["policy"]["generated_tokens"] > 0]
    if len(steady) < 3:
        raise SystemExit("the run was too short for a rate: raise --episodes, to twice --at-once or more")
    first, last = steady[0]["policy"], steady[-1]["policy"]
    tokens = last["generated_tokens"] - first["generated_tokens"]
    return {
        "requests": lines[-1]["policy_requests"],
        "tokens": lines[-1]["completion_tokens"],
        "tokens_per_second": tokens / (last["seconds"] - first["seconds"]),
    }


def _stage_table(runs: dict[str, dict[str, float]]) -> Table:
    """What the time from the command to the first finished episode was made of."""
    table = Table(title="Seconds from `kumite run` to the first finished episode")
    names = list(dict.fromkeys(name for parts in runs.values() for name in parts))
    for name in ("", *names):
        table.add_column(name, justify="right" if name else "left")
    for run, parts in runs.items():
        table.add_row(f"deployment {run}", *(f"{parts.get(name, 0.0):.1f}" for name in names))
    return table


def _share_models(cache: Path) -> None:
    """What is slow to make is the user's."""
    models = packaged_model.folder().parent
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("models", "sites"):
        if not (cache / name).exists():
            (cache / name).symlink_to(models.parent / name)


if __name__ == "__main__":
    main()
