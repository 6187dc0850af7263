"""An OpenAI-compatible policy on Ray Serve, with replicas to kill: `serve_policy.py ADDRESS PORT`."""

import asyncio
import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

SECONDS = 0.5
"""Of each answer."""


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Policy:
    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.url.path.endswith("/models"):
            return {"object": "list", "data": [{"id": "mock", "object": "model"}]}
        await asyncio.sleep(SECONDS)
        message = {"role": "assistant", "content": "1"}
        return {
            "id": "answer",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        }


if __name__ == "__main__":
    ray.init(address=sys.argv[1], namespace="policy", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Policy.bind(), route_prefix="/v1")
    print("serving", flush=True)
    sys.stdin.read()
