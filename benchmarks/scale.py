"""How a run scales and what it survives: `python -m benchmarks.scale [PART…]`, all parts by default.

Parts: `saturation`, `ingest`, `nodes`, `chaos`. Each takes one to four minutes. `--sizes` picks rows of
`saturation` (episodes in flight) and of `nodes` (nodes).
"""

import argparse

from rich.console import Console

from benchmarks import machine
from benchmarks.scaling import chaos, ingest, nodes, saturation

BENCHMARKS = ("saturation", "ingest", "nodes", "chaos")
IN_FLIGHT = [32, 64, 128, 256]
NODES = [1, 2, 4, 8]


def main() -> None:
    """Measures the parts that are asked for, and prints a table each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--sizes", type=int, nargs="+", help="rows of `saturation` or `nodes`")
    parser.add_argument("--episodes", type=int, default=2000, help="of `chaos`; a multiple of 16")
    parser.add_argument("--no-peace", action="store_true", help="`chaos` without the run to compare it with")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(BENCHMARKS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=170)
    machine.print_header(console, "Scale")
    for part in given.parts:
        match part:
            case "saturation":
                saturation.main(console, given.sizes or IN_FLIGHT)
            case "ingest":
                ingest.main(console)
            case "nodes":
                nodes.main(console, given.sizes or NODES)
            case _:
                chaos.main(console, given.episodes, not given.no_peace)


if __name__ == "__main__":
    main()
