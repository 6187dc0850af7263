# pyright: reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false
"""What our vLLM replicas do beyond Ray Serve LLM's: tokens in and out, adapters from a folder, and counts.

`cluster.policy.application` names these classes; only a replica loads them.
"""

import dataclasses
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from ray.llm._internal.common.models import global_id_manager
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader
from vllm.v1.metrics.loggers import StatLoggerBase

from cluster.policy.adapters import FOLDER_VARIABLE
from cluster.policy.engine_metrics import EngineMetrics
from cluster.policy.token_request import TokenRequest

_LLMServer: Any = LLMServer
_VLLMEngine: Any = VLLMEngine
_Loader: Any = LoraModelLoader
_StatLogger: Any = StatLoggerBase


class Counts(_StatLogger):
    """Adds up what vLLM tells of each engine step."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.metrics = EngineMetrics(max_requests=vllm_config.scheduler_config.max_num_seqs)

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM after each step."""
        metrics = self.metrics
        if scheduler_stats is not None:
            metrics.running = scheduler_stats.num_running_reqs
            metrics.waiting = scheduler_stats.num_waiting_reqs
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
    """vLLM's engine, counted."""

    counts: Counts

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        base: Any = super()
        client = base._start_async_llm_engine(engine_args, engine_config, placement_group)
        self.counts = Counts(engine_config)
        if client.logger_manager is not None:  # the engine argument disable_log_stats leaves none
            client.logger_manager.stat_loggers.append(self.counts)
        return client

    async def generate_tokens(self, body: dict[str, Any], raw_request: Any) -> dict[str, Any]:
        """Answers a request to vLLM's own `/inference/v1/generate`; an error is an answer, too."""
        from pydantic import ValidationError
        from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
        from vllm.exceptions import VLLMClientError

        serving = self._app_state.serving_tokens
        try:
            request = GenerateRequest.model_validate(body)
            answer = await serving.serve_tokens(request, raw_request)
        except ValidationError as error:
            return {"error": {"message": str(error), "type": "BadRequestError", "code": 400}}
        except (ValueError, VLLMClientError) as error:
            answer = serving.create_error_response(error)
        return answer.model_dump(mode="json")


class FolderAdapters(_Loader):
    """Finds an adapter in a folder that all replicas see; Ray's own loader wants a bucket."""

    async def load_model_from_config(self, lora_model_id: str, llm_config: Any) -> Any:
        """The adapter that `model:name` asks for.

        Raises:
            HTTPException: 404, there is no such adapter.
        """
        name = lora_model_id.partition(":")[2]
        path = Path(os.environ[FOLDER_VARIABLE]) / name
        if not (path / "adapter_config.json").is_file():
            raise HTTPException(404, f"there is no version {name!r} of the policy's weights")
        return DiskMultiplexConfig(
            model_id=lora_model_id,
            max_total_tokens=None,
            local_path=str(path),
            lora_assigned_int_id=global_id_manager.next(),
        )


class PolicyServer(_LLMServer):
    """Ray Serve LLM's replica with all that."""

    _default_engine_cls = PolicyEngine

    def _init_multiplex_loader(self, model_downloader_cls: Any = None) -> None:
        base: Any = super()
        base._init_multiplex_loader(model_downloader_cls or FolderAdapters)

    async def generate_tokens(
        self, request: TokenRequest, raw_request_info: Any = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yields the answer to a token-in, token-out request."""
        await self._maybe_resolve_lora_from_multiplex()
        raw_request = raw_request_info.to_starlette_request() if raw_request_info else None
        yield await self.engine.generate_tokens(request.body, raw_request)

    async def engine_metrics(self) -> dict[str, Any]:
        """This replica's counts."""
        return dataclasses.asdict(self.engine.counts.metrics)

    async def load_version(self, model: str) -> str | None:
        """Loads an adapter ahead of the first request for it.

        Args:
            model: `model:name`.

        Returns:
            Why vLLM refuses it; None if it does not.
        """
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        models = self.engine._oai_models
        if model in models.lora_requests:  # of an update that another replica refused
            await models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=model))
        try:
            adapter = await FolderAdapters().load_model_from_config(model, self._llm_config)
            await self.engine.resolve_lora(adapter)
        except HTTPException as error:
            return str(error.detail)
        except ValueError as error:
            return str(error)
        return None
