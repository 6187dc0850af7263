"""AgentDojo's own runner over task pairs under attack, with the ground truth: no sandbox, one by one.

Run as a program, with the benchmark version, the attack, and how many pairs to take, evenly spread over all
pairs in their order; prints its figures as JSON.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.attacks.attack_registry import load_attack
from agentdojo.task_suite.load_suites import get_suites


def main(version: str, attack_name: str, count: int) -> None:
    """Plays, and prints rollouts, seconds, and the results of AgentDojo's checks."""
    pairs = list(_pairs(version))
    sample = list(islice(pairs, 0, None, max(1, len(pairs) // count)))
    target = GroundTruthPipeline(None)
    target.name = "local"
    attacks = {suite.name: load_attack(attack_name, suite, target) for suite in get_suites(version).values()}
    utility = security = 0
    began = time.perf_counter()
    for suite, user_task, injection_task in sample:
        injections = attacks[suite.name].attack(user_task, injection_task)
        pipeline = GroundTruthPipeline(user_task)
        results = suite.run_task_with_pipeline(pipeline, user_task, injection_task, injections)
        utility += results[0]
        security += results[1]
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"pairs": len(pairs), "rollouts": len(sample), "seconds": seconds}
    print(json.dumps({**figures, "utility": utility, "security": security, "peak_bytes": peak}))


def _pairs(version: str) -> Iterator[tuple[Any, Any, Any]]:
    for suite in get_suites(version).values():
        for user_task in suite.user_tasks.values():
            for injection_task in suite.injection_tasks.values():
                yield suite, user_task, injection_task


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
