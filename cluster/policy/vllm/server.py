# pyright: reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false
"""What our vLLM replicas do beyond Ray Serve LLM's: tokens in and out, weights from a folder, and counts.

`cluster.policy.vllm.application` names these classes; only a replica loads them.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from ray import serve

from cluster.policy.vllm.token_request import TokenRequest
from cluster.policy.weights.named import NamedAdapters
from cluster.policy.weights.versions import VersionFolder
from cluster.policy.weights.weights_copy import check_copy
from workers.collector import collect_seldom
from workers.policy.versions import parse_version

with collect_seldom():  # as in `cluster.policy.vllm.ingress`
    from ray.llm._internal.common.models import global_id_manager
    from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig, LLMConfig
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    from cluster.policy.vllm.engine import PolicyEngine

_LLMServer: Any = LLMServer
_LLMConfig: Any = LLMConfig
_Loader: Any = LoraModelLoader
_serve: Any = serve


class FolderAdapters(_Loader):
    """Finds an adapter in a folder that all replicas see; Ray's own loader wants a bucket."""

    async def load_model_from_config(self, lora_model_id: str, llm_config: Any) -> Any:
        """The adapter that `model:name` asks for.

        Raises:
            HTTPException: 404, there is no such adapter.
        """
        path = _find_adapter(lora_model_id, llm_config.model_id)
        if path is None:
            name = lora_model_id.removeprefix(f"{llm_config.model_id}:")
            raise HTTPException(404, f"there is no version {name!r} of the policy's weights")
        return DiskMultiplexConfig(
            model_id=lora_model_id,
            max_total_tokens=None,
            local_path=str(path),
            lora_assigned_int_id=global_id_manager.next(),
        )


def _find_adapter(asked: str, model: str) -> Path | None:
    """The folder of the adapter that `model:name` asks for; None if there is none."""
    versions, version = VersionFolder.of_replica(), parse_version(asked, model)
    if version is not None:
        return versions.adapter(version)
    return NamedAdapters(versions).find(asked.removeprefix(f"{model}:"))


class PolicyServer(_LLMServer):
    """Ray Serve LLM's replica with all that."""

    _default_engine_cls = PolicyEngine

    async def __init__(self, llm_config: dict[str, Any]) -> None:
        """Takes an LLM config of Ray Serve LLM, and returns when the engine is up."""
        await super().__init__(_LLMConfig.model_validate(llm_config))

    async def start(self) -> None:
        """Comes up with the weights in use, which a replica that takes another's place must find itself."""
        await super().start()
        await self.engine.weights.catch_up()

    def _init_multiplex_loader(self, model_downloader_cls: Any = None) -> None:
        base: Any = super()
        base._init_multiplex_loader(model_downloader_cls or FolderAdapters)

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        multiplexed: str = _serve.get_multiplexed_model_id()
        asked = parse_version(multiplexed, self._llm_config.model_id)
        if asked is None:
            if multiplexed and multiplexed != self._llm_config.model_id:
                await self.engine.weights.catch_up()
                self.engine.check_named(multiplexed)
                await super()._maybe_resolve_lora_from_multiplex()
            return
        await self.engine.weights.catch_up(asked)
        if asked > self.engine.weights.version:
            self.engine.weights.check_kept(asked)
            await super()._maybe_resolve_lora_from_multiplex()

    async def check_health(self) -> None:
        """Raises where the replica must be replaced."""
        if self.engine is not None and self.engine.weights.spoilt:
            raise RuntimeError("a change of weights failed, and so did the way back")
        await super().check_health()

    async def generate_tokens(
        self, request: TokenRequest, raw_request_info: Any = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yields the answer to a token-in, token-out request."""
        await self._maybe_resolve_lora_from_multiplex()
        raw_request = raw_request_info.to_starlette_request() if raw_request_info else None
        yield await self.engine.generate_tokens(request.body, raw_request)

    async def answers(self) -> AsyncGenerator[None]:
        """Yields once: whoever asks knows that requests are routed here."""
        yield None

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
        if parse_version(model, self._llm_config.model_id) is not None:
            await self.engine.forget_adapters(model)  # of an update that another replica refused
        try:
            if (folder := _find_adapter(model, self._llm_config.model_id)) is not None:
                await asyncio.to_thread(check_copy, folder)
            adapter = await FolderAdapters().load_model_from_config(model, self._llm_config)
            await self.engine.resolve_lora(adapter)
        except HTTPException as error:
            return str(error.detail)
        except ValueError as error:
            return str(error)
        return None

    async def forget_version(self, model: str) -> None:
        """Unloads an adapter that does not come into use."""
        await self.engine.forget_adapters(model)

    async def describe_model(self) -> dict[str, Any]:
        """The model that this replica was started with: a `ServedModel`."""
        described = await asyncio.to_thread(self.engine.describe_model)
        return described.model_dump()

    async def retire_versions(self, oldest: int) -> list[int]:
        """Takes no more requests for adapters older than this; gives those that one is still answered by."""
        return await self.engine.retire_versions(oldest)

    async def base_version(self) -> tuple[str, int]:
        """This replica's name, and the version of its full weights."""
        return _serve.get_replica_context().replica_id.unique_id, self.engine.weights.version

    async def load_checkpoint(self, version: int, replica: str) -> str | None:
        """Takes full weights, if this is the replica of that name.

        Returns:
            Why vLLM refuses them; None if it does not, or another replica is meant.
        """
        name, _ = await self.base_version()
        return await self.engine.weights.load(version) if name == replica else None
