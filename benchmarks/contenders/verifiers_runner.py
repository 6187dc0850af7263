"""verifiers' own runner, with its own client, on an endpoint.

Run as a program, with the API's root, the tasks and the episodes at once; prints its figures as JSON.
"""

import asyncio
import json
import sys

import verifiers as vf

from benchmarks.contenders.looking_around import load_environment


async def main(base_url: str, tasks: int, at_once: int) -> None:
    """Plays, and prints how many episodes came to a reward of 1."""
    env = load_environment(tasks)
    client = vf.ClientConfig(api_base_url=base_url, api_key_var="KUMITE_BENCHMARK_NO_KEY")
    outputs = await env.evaluate(
        client, "limited", sampling_args={"max_tokens": 64}, max_concurrent=at_once, num_examples=tasks
    )
    rewards: list[float] = [output["reward"] for output in outputs["outputs"]]
    print(json.dumps({"episodes": len(rewards), "whole": sum(reward == 1.0 for reward in rewards)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
