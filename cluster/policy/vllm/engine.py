# pyright: reportMissingTypeStubs=false
"""vLLM's engine in a replica: counted, taking tokens, and with weights that change beneath it.

`cluster.policy.vllm.server` names it; only a replica loads it.
"""

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest
from vllm.v1.metrics.loggers import StatLoggerBase

from cluster.policy.models.models import Model, find_model_folder
from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.policy.weights.full_weights import FullWeights
from cluster.policy.weights.named import base_of, parse_named
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.versions import VersionFolder
from workers.cancellation import run_to_end
from workers.policy.versions import parse_version, version_name

_VLLMEngine: Any = VLLMEngine
_StatLogger: Any = StatLoggerBase


class EngineStepCounts(_StatLogger):
    """Adds up what vLLM tells of each engine step."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.metrics = EngineMetrics(
            name=uuid.uuid4().hex, max_requests=vllm_config.scheduler_config.max_num_seqs
        )

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM after each step."""
        metrics = self.metrics
        if scheduler_stats is not None:
            metrics.running = scheduler_stats.num_running_reqs
            # Those whose grammar is not ready, and those passed over in a step, are counted apart.
            metrics.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            metrics.kv_cache_usage = scheduler_stats.kv_cache_usage
            metrics.prefix_queries += scheduler_stats.prefix_cache_stats.queries
            metrics.prefix_hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            metrics.prompt_tokens += iteration_stats.num_prompt_tokens
            metrics.generated_tokens += iteration_stats.num_generation_tokens

    def log_engine_initialized(self) -> None:
        """Has nothing to say."""

    def log(self) -> None:
        """Has nothing to say."""

    def record_sleep_state(self, *args: Any, **kwargs: Any) -> None:
        """Does not matter here."""


class PolicyEngine(_VLLMEngine):
    """vLLM's engine, counted, and with versions.

    An answer names the version that gave it: what was asked for, if that is an adapter, else the full
    weights that are loaded, whichever older ones were asked for.
    """

    counts: EngineStepCounts

    def __init__(self, llm_config: Any) -> None:
        super().__init__(llm_config)
        self._first = ""
        self._versions = VersionFolder.of_replica()
        self.weights = FullWeights(self._versions, self._reload)

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        base: Any = super()
        client = base._start_async_llm_engine(engine_args, engine_config, placement_group)
        self._first = engine_config.model_config.model
        self.counts = EngineStepCounts(engine_config)
        if client.logger_manager is not None:  # the engine argument disable_log_stats leaves none
            client.logger_manager.stat_loggers.append(self.counts)
        return client

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any]:
        """See the base class."""
        base: Any = super()
        async for answer in self._answers(base.chat, request, raw_request_info):
            yield answer

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any]:
        """See the base class."""
        base: Any = super()
        async for answer in self._answers(base.completions, request, raw_request_info):
            yield answer

    async def generate_tokens(self, body: dict[str, Any], raw_request: Any) -> dict[str, Any]:
        """Answers a request to vLLM's own `/inference/v1/generate`; an error is an answer, too."""
        from pydantic import ValidationError
        from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
        from vllm.exceptions import VLLMClientError

        serving = self._app_state.serving_tokens
        async with self._hold_version(body.get("model")) as (model, named):
            try:
                request = GenerateRequest.model_validate({**body, "model": model})
                answer = await serving.serve_tokens(request, raw_request)
            except ValidationError as error:
                return {"error": {"message": str(error), "type": "BadRequestError", "code": 400}}
            except (ValueError, VLLMClientError) as error:
                answer = serving.create_error_response(error)
            return _name_version(answer, named).model_dump(mode="json")

    def check_named(self, asked: str) -> None:
        """Sees that the full weights are those that a named adapter was made for.

        Args:
            asked: `model:name`.

        Raises:
            HTTPException: 404, this is no adapter's name; 410, other full weights have taken their place.
        """
        named = parse_named(asked, str(self.llm_config.model_id))
        if named is None:
            raise HTTPException(404, f"there is no model {asked!r}")
        if (base := base_of(named)) != self.weights.version:
            raise HTTPException(
                410,
                f"the adapter {named} was made for the full weights of version {base}, and those of "
                f"version {self.weights.version} have taken their place",
            )

    def describe_model(self) -> ServedModel:
        """The model that this replica was started with, as its files say."""
        local = Path(self._first).is_dir()
        return ServedModel.of_folder(find_model_folder(Model(self._first, self._first, local)))

    async def forget_adapters(self, *names: str) -> None:
        """Unloads those of these adapters that are loaded."""
        for name in set(names) & set(self._oai_models.lora_requests):
            await self._oai_models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))

    async def retire_versions(self, oldest: int) -> list[int]:
        """Takes no more requests for adapters older than this, and unloads them.

        Returns:
            Those that a request is still answered by, which stay.
        """
        busy = self.weights.retire(oldest)
        own = str(self.llm_config.model_id)
        loaded = {name: parse_version(name, own) for name in self._oai_models.lora_requests}
        old = (name for name, v in loaded.items() if v is not None and v < oldest and v not in busy)
        await self.forget_adapters(*old)
        return busy

    async def _reload(self, version: int) -> None:
        client = self._engine_client
        weights = self._versions.checkpoint(version)
        if weights is None and version:
            raise FileNotFoundError(f"{self._versions.path} holds no version {version}")
        try:
            await client.pause_generation(mode="wait", clear_cache=True)
            await self.forget_adapters(*self._oai_models.lora_requests)  # what they are added to goes
            await client.collective_rpc(
                "reload_weights", kwargs={"weights_path": str(weights or self._first)}
            )
            if not await client.reset_prefix_cache():
                raise RuntimeError("the prefix cache holds what the weights before have computed")
        finally:
            await run_to_end(client.resume_generation())

    async def _answers(self, give: Any, request: Any, raw_request_info: Any) -> AsyncGenerator[Any]:
        async with self._hold_version(request.model) as (request.model, named):
            async for answer in give(request, raw_request_info):
                yield _name_version(answer, named)

    @asynccontextmanager
    async def _hold_version(self, asked: str | None) -> AsyncGenerator[tuple[str, str]]:
        """Holds the weights that act for a model name: yields what vLLM and what answers call them.

        Inside, they stay.
        """
        own = str(self.llm_config.model_id)
        async with self.weights.acting(parse_version(asked, own)) as version:
            if asked is not None and version > self.weights.version:
                yield asked, asked
            elif asked is not None and parse_named(asked, own) is not None:
                self.check_named(asked)
                yield asked, asked
            else:
                yield own, f"{own}:{version_name(version)}"


def _name_version(answer: Any, model: str) -> Any:
    if hasattr(answer, "model"):
        answer.model = model
    return answer
