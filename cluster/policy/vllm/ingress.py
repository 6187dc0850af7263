# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""The deployment's HTTP side: Ray Serve LLM's, with five routes more. Only an ingress replica loads it.

Ray Serve LLM's ingress has no route for tokens in and out, and none that asks all replicas; it is made to
be extended (`make_fastapi_ingress`), so these go where the others are.
"""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from cluster.policy.vllm.token_request import TokenRequest
from cluster.policy.weights.rolling import roll_out
from cluster.policy.weights.versions import VersionFolder
from workers.collector import collect_seldom
from workers.policy.versions import HEADER, parse_version, version_name

with collect_seldom():  # a quarter of the 9 s that they take to import vLLM was the collector's
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
    from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS
    from ray.llm._internal.serve.core.ingress.mixins.broadcastable import ReplicaBroadcastable
    from ray.llm._internal.serve.core.protocol import RawRequestInfo
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

_Ingress: Any = OpenAiIngress
_Broadcastable: Any = ReplicaBroadcastable
_make_fastapi_ingress: Any = make_fastapi_ingress
_endpoints: Any = DEFAULT_ENDPOINTS
_RawRequestInfo: Any = RawRequestInfo
_LLMConfig: Any = LLMConfig
_to_model_metadata: Any = to_model_metadata

_ROUTES: dict[str, Any] = {
    "generate_tokens": lambda app: app.post("/inference/v1/generate"),  # pyright: ignore
    "engine": lambda app: app.get("/kumite/engine"),  # pyright: ignore
    "load_version": lambda app: app.post("/kumite/versions"),  # pyright: ignore
    "read_versions": lambda app: app.get("/kumite/versions"),  # pyright: ignore
    "describe_model": lambda app: app.get("/kumite/model"),  # pyright: ignore
}


class PolicyIngress(_Ingress, _Broadcastable):
    """Ray Serve LLM's ingress and our routes."""

    def __init__(self, llm_deployments: dict[str, Any], llm_config: dict[str, Any]) -> None:
        """Takes the handle of the deployment that serves each model, and the config of the one there is."""
        llm: Any = _LLMConfig.model_validate(llm_config)
        cards = {llm.model_id: _to_model_metadata(llm.model_id, llm)}
        super().__init__(llm_deployments=llm_deployments, model_cards=cards)
        self._routed: set[str] = set()
        """Models of which a request has been routed."""

    async def _get_model_id(self, model: str | None) -> str:
        """What to route by: an adapter goes where it is loaded, and full weights are everywhere."""
        base: Any = super()
        found: str = await base._get_model_id(model)
        own = next(iter(self._model_cards))
        version = parse_version(found, own)
        return found if version is None or VersionFolder.of_replica().adapter(version) else own

    async def _broadcast_to_replicas(self, model: str, method: str, kwargs: Any = None) -> list[Any]:
        """What every replica answers.

        Before the first request, Ray's broadcast may make the handle's router outside of the router's loop,
        where it fails as long as nothing is routed ("no running event loop"): so something is.
        """
        if model not in self._routed:
            handle = self._get_configured_serve_handle(await self._get_model_id(model))
            async for _ in handle.answers.remote():
                pass
            self._routed.add(model)
        base: Any = super()
        return await base._broadcast_to_replicas(model, method, kwargs)

    async def generate_tokens(self, request: Request) -> Response:
        """Tokens in, tokens out: vLLM's route, with `token_ids` and `sampling_params`."""
        body: dict[str, Any] = await request.json()
        model = await self._get_model_id(body.get("model"))
        handle = self._get_configured_serve_handle(model)
        info = _RawRequestInfo.from_starlette_request(request)
        async for answer in handle.generate_tokens.remote(TokenRequest(body), info):
            status = int(answer["error"]["code"]) if "error" in answer else 200
            return JSONResponse(answer, status, {HEADER: answer.get("model") or ""})
        return JSONResponse({"error": {"message": "the replica gave no answer"}}, 500)

    async def engine(self) -> list[dict[str, Any]]:
        """Every replica's counts."""
        return await self._broadcast_to_replicas(next(iter(self._model_cards)), "engine_metrics")

    async def read_versions(self) -> dict[str, Any]:
        """The folder of versions as this deployment reads it, what is in use, and what replicas have."""
        here = VersionFolder.of_replica()
        told = await self._broadcast_to_replicas(next(iter(self._model_cards)), "base_version")
        bases = [base for _, base in told]
        return {"folder": str(here.path), "current": here.current.model_dump(), "bases": bases}

    async def describe_model(self) -> dict[str, Any]:
        """The model that the replicas were started with: a `ServedModel`."""
        told = await self._broadcast_to_replicas(next(iter(self._model_cards)), "describe_model")
        return next((model for model in told if model["tensors"]), told[0])

    async def load_version(self, request: Request) -> dict[str, Any]:
        """Has every replica load the weights `version`, of a `kind`; gives the reasons of those that refuse.

        An adapter is loaded by all at once, beside the others; a checkpoint by one replica after the other,
        while the rest serves on. Of adapters older than `oldest`, it gives those that are still `busy`: no
        request but those inside is answered by them any more. The kind `kept` does that alone, of an adapter
        that is loaded, and `refused` unloads it. The kind `named` loads an adapter by its `name`, which is no
        version's.
        """
        body: dict[str, Any] = await request.json()
        model = next(iter(self._model_cards))
        if body["kind"] == "named":
            told = await self._broadcast_to_replicas(
                model, "load_version", {"model": f"{model}:{body['name']}"}
            )
            return {"refusals": [reason for reason in told if reason is not None], "busy": []}
        named = {"model": f"{model}:{version_name(int(body['version']))}"}
        if body["kind"] == "checkpoint":
            refusal = await self._load_checkpoint(model, int(body["version"]))
            return {"refusals": [] if refusal is None else [refusal], "busy": []}
        if body["kind"] == "refused":
            await self._broadcast_to_replicas(model, "forget_version", named)
            return {"refusals": [], "busy": []}
        if body["kind"] == "adapter":
            told = await self._broadcast_to_replicas(model, "load_version", named)
            refusals = [reason for reason in told if reason is not None]
            if refusals:
                return {"refusals": refusals, "busy": []}
        busy = await self._broadcast_to_replicas(model, "retire_versions", {"oldest": int(body["oldest"])})
        return {"refusals": [], "busy": sorted({version for versions in busy for version in versions})}

    async def _load_checkpoint(self, model: str, version: int) -> str | None:
        async def load(replica: str, version: int) -> str | None:
            given = {"version": version, "replica": replica}
            told = await self._broadcast_to_replicas(model, "load_checkpoint", given)
            return next((reason for reason in told if reason is not None), None)

        return await roll_out(await self._broadcast_to_replicas(model, "base_version"), load, version)


RoutedIngress: Any = _make_fastapi_ingress(PolicyIngress, endpoint_map={**_endpoints, **_ROUTES})
"""The class of the deployment, with its routes."""
