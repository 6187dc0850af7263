# pyright: reportMissingTypeStubs=false
"""What differs in a vLLM replica on the CPU: fewer processes, each of which would import vLLM again.

Beside a replica, Ray Serve LLM starts vLLM's engine process, a worker process under that, a task that
fetches the model, and an actor that counts usage. On a CPU the last three cost a third of the time to
ready, and the second one half of the tokens per second: two processes wait for each other by spinning.
`cluster.policy.vllm.application` names these classes; only a replica loads them.
"""

from typing import Any

from cluster.policy.vllm.engine_process import forked_engine, import_ahead
from workers.collector import collect_seldom

import_ahead()
with collect_seldom():
    from ray.llm._internal.common.callbacks.base import CallbackBase

    from cluster.policy.vllm.engine import PolicyEngine
    from cluster.policy.vllm.server import PolicyServer

_CallbackBase: Any = CallbackBase


class CpuEngine(PolicyEngine):
    """Runs the model in vLLM's engine process itself, which is forked, instead of in a process below it."""

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        with forked_engine():
            return super()._start_async_llm_engine(engine_args, engine_config, placement_group)

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        base: Any = super()
        prepared = base._prepare_engine_config(callback_ctx)
        # Ray sets "mp" whatever is asked, and vLLM would turn "uni" into it, to have each worker's threads
        # pinned by OpenMP's environment. Ours are not pinned (VLLM_CPU_OMP_THREADS_BIND=nobind).
        prepared[2].parallel_config.distributed_executor_backend = "uni"
        return prepared


class CpuServer(PolicyServer):
    """The replica with that engine, which counts nothing for anyone."""

    _default_engine_cls = CpuEngine

    async def _start_engine(self) -> None:
        await self.engine.start()


class ModelIsHere(_CallbackBase):
    """Skips the task that fetches the model: it is a folder on this machine."""

    async def on_before_node_init(self) -> None:
        """Called by the engine, first of all."""
        self.ctx.run_init_node = False
