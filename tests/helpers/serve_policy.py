"""An OpenAI-compatible policy on Ray Serve, with replicas to kill: `serve_policy.py ADDRESS PORT [SCRIPT]`.

SCRIPT is a JSON file: `seconds`, of each answer; `answers`, the assistant messages to give one after the
other to a conversation, by what its user says first. Without one, it says `1` whatever it is told.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

CONSTANT: dict[str, Any] = {"seconds": 0.5, "answers": {}}


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Policy:
    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.url.path.endswith("/models"):
            return {"object": "list", "data": [{"id": "mock", "object": "model"}]}
        asked = (await request.json())["messages"]
        await asyncio.sleep(self._script["seconds"])
        message = self._answer(asked)
        return {
            "id": "answer",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "mock",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        }

    def _answer(self, asked: list[dict[str, Any]]) -> dict[str, Any]:
        said = next(message["content"] for message in asked if message["role"] == "user")
        answers = self._script["answers"].get(said, [{"role": "assistant", "content": "1"}])
        turn = sum(message["role"] == "assistant" for message in asked)
        return answers[min(turn, len(answers) - 1)]


if __name__ == "__main__":
    script: dict[str, Any] = json.loads(Path(sys.argv[3]).read_text()) if len(sys.argv) > 3 else CONSTANT
    ray.init(address=sys.argv[1], namespace="policy", log_to_driver=False)
    serve.start("HeadOnly", {"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Policy.bind(script), route_prefix="/v1")
    print("serving", flush=True)
    sys.stdin.read()
    serve.shutdown()
