"""Good runs of each kind of policy, played by a real worker; `kumite verify` is to find nothing in them."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import yaml
from aiohttp import web

from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.dataset.dataset import Dataset
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session, end_session
from cluster.dataset.sequences import write_sequences
from cluster.observe.summary import summarise_run, write_summary
from cluster.plan.plan import load_plan
from cluster.policy.models.description import describe_run
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.tiny_tokenizer import END
from workers.policy.chat_template import ChatTemplate
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker
from workers.settings import PolicyEndpoint, SamplingSettings, SandboxSettings, WorkerSettings

RunKind = Literal["per_turn", "exact", "endpoint", "bare", "oracle"]
"""`per_turn` and `exact`: a vLLM deployment. `endpoint` and `bare`: an endpoint, with ids and without."""
COUNTDOWN = Path(__file__).parents[2] / "examples" / "countdown.py"
_VERSION = 4


class TokenPolicy(MockPolicy):
    """A policy that tells the ids of each prompt, and samples two calls and then a sentence.

    Args:
        template: How it makes prompts of messages.
    """

    def __init__(self, template: ChatTemplate) -> None:
        super().__init__()
        self._template = template

    def _answer(self, reply: Reply, body: dict[str, Any]) -> web.Response:
        """An answer to a conversation, or to ids; which one depends on how many tool results there are."""
        if "token_ids" in body:
            text = self._template.decode(body["token_ids"])
            said = _words(text.count("<tool_response>"))
            return super()._answer(self._reply([], said), body)
        tools = [tool["function"] for tool in body.get("tools", [])]
        prompt = self._template.ids(body["messages"], tools)
        said = _words(sum(message["role"] == "tool" for message in body["messages"]))
        return super()._answer(self._reply(prompt, said), body)

    def _reply(self, prompt: list[int], said: tuple[str, dict[str, Any] | None]) -> Reply:
        text, call = said
        written = text
        if call is not None:
            arguments = json.dumps(call["arguments"])
            body = f'{{"name":"{call["name"]}",  "arguments": {arguments}}}'
            written += f"<tool_call>\n{body}\n</tool_call>"
        ids = self._template.encode(written + END)
        return Reply(
            content=text or None,
            tool_calls=[(call["name"], call["arguments"])] if call else [],
            prompt_token_ids=prompt,
            token_ids=ids,
            logprobs=[-0.01 * (1 + place % 97) for place in range(len(ids))],
            cached_tokens=len(prompt) // 2,
        )


def _words(results: int) -> tuple[str, dict[str, Any] | None]:
    if results < 2:
        return ("", "I multiply.")[results], {
            "name": ("add", "multiply")[results],
            "arguments": {"a": 3, "b": 5},
        }
    return "That makes fifteen.", None


def make_run(folder: Path, kind: RunKind, template: ChatTemplate) -> Path:
    """Plays a run of this kind, and writes its sequences where it has ids."""
    with TokenPolicy(template) as policy:
        served: dict[str, Any] = {"model": "mock", "base_url": policy.base_url}
        fields: dict[str, Any] = {
            "per_turn": {"kind": "vllm", "model": template.model},
            "exact": {"kind": "vllm", "model": template.model, "tokens": "exact"},
            "endpoint": {"kind": "endpoint", **served, "token_ids": True},
            "bare": {"kind": "endpoint", **served},
            "oracle": {"kind": "oracle"},
        }[kind]
        if kind == "endpoint":
            fields["tokenizer"] = template.model
        if kind != "oracle":
            fields["sampling"] = {"max_tokens": 256}
        environment: dict[str, Any] = {"id": str(COUNTDOWN), "args": {"tasks": 2}}
        if kind == "oracle":
            environment = {"id": "agentdojo", "args": {"suites": ["banking"]}}
        config = _config(folder, {"environment": environment, "policy": fields, "limit": 2, "samples": 2})
        endpoint = PolicyEndpoint(kind="oracle", model="oracle")
        if kind != "oracle":
            endpoint = PolicyEndpoint(
                kind="openai",
                **served,
                version=_VERSION if kind in ("per_turn", "exact") else None,
                token_ids=kind != "bare",
                tokens="exact" if kind == "exact" else "per_turn",
                tokenizer=template.model,
                sampling=SamplingSettings(max_tokens=256),
            )
        play_run(folder, config, endpoint)
    if kind not in ("bare", "oracle"):
        write_sequences(folder, "grpo")
    return folder


def play_run(
    folder: Path, config: RunConfig, endpoint: PolicyEndpoint, sandbox: SandboxSettings | None = None
) -> None:
    """Plays all of a config's episodes with one worker, on this machine or in sandboxes, and writes a run."""
    environment, plan = load_plan(config, folder.name)
    settings = WorkerSettings(
        run_id=folder.name,
        environment=config.environment,
        sandbox=sandbox or SandboxSettings(backend="process"),
        policy=endpoint,
        seed=1,
    )
    Target(folder, folder.name).make(config)
    begin_session(folder, describe_run(config, endpoint.model, environment.sampling_args), endpoint.version)
    worker = RolloutWorker(settings, "test-worker")
    try:
        worker.ready()
        with ThreadPoolExecutor(8) as threads:
            results = [result for played in threads.map(worker.play, plan.units()) for result in played]
    finally:
        worker.stop()
    asyncio.run(_write(folder, plan.episodes, results))
    end_session(folder, endpoint.version)
    write_summary(folder, summarise_run(folder))


async def _write(folder: Path, planned: int, results: list[EpisodeResult]) -> None:
    async with await Dataset.open(folder, folder.name) as dataset:
        await dataset.set_planned(planned)
        for result in results:
            await dataset.append(result)
        await dataset.commit(wall_seconds=1.0, cancelled=0)


def _config(folder: Path, fields: dict[str, Any]) -> RunConfig:
    source = folder.with_suffix(".yaml")
    source.write_text(yaml.safe_dump(fields))
    return load_config(source)
