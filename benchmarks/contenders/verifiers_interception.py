"""verifiers' own interception server and Docker runtime, by their public interfaces, around one program."""

import asyncio
import os
import time
from typing import Any

from verifiers.v1.clients.client import ModelContext
from verifiers.v1.configs.client import EvalClientConfig
from verifiers.v1.interception.server import InterceptionServer
from verifiers.v1.runtimes import DockerConfig, make_runtime
from verifiers.v1.session import RolloutSession
from verifiers.v1.trace import Trace

TIMEOUT = 120.0
_KEY = "KUMITE_BENCHMARK_KEY"


async def play(image: str, program: str, url: str, episodes: int, at_once: int) -> dict[str, Any]:
    """Plays so many episodes, each in a container of its own.

    Args:
        image: With Python.
        program: The agent's source.
        url: The policy's.
        episodes: How many.
        at_once: How many of them go on at a time.

    Returns:
        Seconds for all of them, CPU seconds of this process, and the calls on record.
    """
    os.environ[_KEY] = "none"
    context = ModelContext("mock", EvalClientConfig(base_url=url, api_key_var=_KEY))
    places = asyncio.Semaphore(at_once)
    traces: list[Any] = []

    async def one(server: InterceptionServer) -> None:
        async with places, asyncio.timeout(TIMEOUT):
            kind: Any = Trace
            trace = kind.model_construct(id=os.urandom(8).hex())
            session = RolloutSession(context, trace)
            runtime = make_runtime(DockerConfig(image=image, workdir="/tmp"))
            try:
                await runtime.start()
                async with server.acquire(session) as (base, secret, _):
                    variables = {
                        "OPENAI_BASE_URL": f"{runtime.host_url(base)}/v1",
                        "OPENAI_API_KEY": secret,
                    }
                    result = await runtime.run(["python3", "-c", program], variables)
                    if result.exit_code != 0:
                        raise RuntimeError(f"the peer's agent failed: {result.stderr or result.stdout}")
            finally:
                await runtime.stop()
            traces.append(trace)

    async with InterceptionServer() as server:
        began, cpu = time.perf_counter(), _cpu()
        await asyncio.gather(*(one(server) for _ in range(episodes)))
        return {
            "seconds": time.perf_counter() - began,
            "cpu": _cpu() - cpu,
            "calls": sum(len(trace.calls) for trace in traces),
        }


def _cpu() -> float:
    """CPU seconds of this process and of the programs that it ran."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
