"""verifiers' own `eval` of a v1 taskset.

Run as a program, by a Python that has it, with the policy's URL, the number of tasks, a folder for what it
writes and the config of its runtime as JSON; prints its figures as JSON.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any, cast

sys.path.insert(0, os.path.dirname(__file__))


def main(url: str, episodes: int, folder: str, runtime: dict[str, Any]) -> None:
    """Plays all tasks at once, and prints how long that took and how many ended well."""
    from verifiers.v1.cli.eval import runner
    from verifiers.v1.configs.cli.eval import EvalConfig

    out = os.dup(1)
    os.dup2(2, 1)
    config = EvalConfig.model_validate(
        {
            "env": {
                "taskset": {"id": "word_problems", "problems": episodes},
                "agent": {"harness": {"id": "null"}, "runtime": runtime},
            },
            "model": "mock",
            "client": {"base_url": url, "api_key_var": "NO_SUCH_KEY"},
            "max_concurrent": episodes,
            "output_dir": folder,
            "push": False,
            "rich": None,
        }
    )
    began = time.perf_counter()
    # The runner's episodes are generic in what a task carries, which no type here names.
    played: list[Any] = asyncio.run(cast(Any, runner).run_eval(config))
    seconds = time.perf_counter() - began
    done = sum(episode.ok for episode in played)
    os.write(out, json.dumps({"seconds": seconds, "done": done}).encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
