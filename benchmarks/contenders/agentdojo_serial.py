"""AgentDojo's own runner over every user task with its ground truth: no sandbox, one process, one by one.

Run as a program, with the benchmark version and the number of passes; prints its figures as JSON. It has a
pass over one task of each suite to itself beforehand, so that nothing of its start is counted.
"""

import json
import sys
import time

from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.task_suite.load_suites import get_suites


def main(version: str, passes: int) -> None:
    """Plays, and prints rollouts, seconds, CPU seconds and how many were solved."""
    suites = get_suites(version)
    for suite in suites.values():
        task = next(iter(suite.user_tasks.values()))
        suite.run_task_with_pipeline(GroundTruthPipeline(task), task, None, {})
    seconds: dict[str, float] = {}
    rollouts = solved = 0
    cpu = time.process_time()
    for name, suite in suites.items():
        began = time.perf_counter()
        for _ in range(passes):
            for task in suite.user_tasks.values():
                utility, _ = suite.run_task_with_pipeline(GroundTruthPipeline(task), task, None, {})
                rollouts += 1
                solved += utility
        seconds[name] = time.perf_counter() - began
    cpu = time.process_time() - cpu
    print(json.dumps({"rollouts": rollouts, "solved": solved, "seconds": seconds, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
