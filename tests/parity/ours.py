"""Our side: a rollout worker with all that belongs to it but Ray, and the same scripts for a model."""

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jsonpatch
from verifiers.legacy.types import Response, ResponseMessage, Tool, ToolCall, Usage

from tests.parity.conversation import from_verifiers
from tests.parity.episode import Played, plain_state
from tests.parity.script import Policy
from workers.environments.classic.environment import ClassicEnvironment
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeResult, EpisodeSpec
from workers.rollout_worker import RolloutWorker
from workers.settings import (
    EnvironmentSettings,
    PolicyEndpoint,
    SamplingSettings,
    SandboxSettings,
    WorkerSettings,
)

Key = tuple[str, str]
"""A task's id, and a behaviour."""
AT_ONCE = 8
TEMPERATURE = 0.75


class ScriptedPolicy(OracleClient):
    """A policy client that acts by the script of the episode it is asked in."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[Key, Policy] = {}
        self.sampling: list[dict[str, Any]] = []
        """What it was asked with, all episodes together."""
        self.played: dict[Key, Played] = {}

    async def get_response(
        self,
        prompt: Any,
        model: str,
        sampling_args: dict[str, Any],
        tools: list[Tool] | None = None,
        **kwargs: Any,
    ) -> Response:
        info = kwargs["state"]["info"]
        key = (info["task_id"], info["behaviour"])
        self.sampling.append(sampling_args)
        said = from_verifiers(prompt)
        offered = [{"name": tool.name, "parameters": tool.parameters} for tool in tools or []]
        self.played.setdefault(key, Played()).saw(said, offered)
        action = self.scripts[key].act(said, offered, sampling_args.get("tool_choice") != "none")
        calls = [ToolCall(id=call.id, name=call.name, arguments=call.text) for call in action.calls]
        return Response(
            id="1",
            created=0,
            model=model,
            usage=Usage(prompt_tokens=0, reasoning_tokens=0, completion_tokens=0, total_tokens=0),
            message=ResponseMessage(
                content=action.content, tool_calls=calls or None, finish_reason="stop", is_truncated=False
            ),
        )


class Ours:
    """A worker that plays one selection of tasks."""

    def __init__(
        self, worker: RolloutWorker, policy: ScriptedPolicy, rows: dict[str, dict[str, Any]]
    ) -> None:
        self.rows = rows
        self.policy = policy
        self._worker = worker
        self._base_states: dict[str, str] = {}
        self._base_fields: dict[str, dict[str, str]] = {}
        self._plain_fields: dict[str, dict[str, str]] = {}

    def play(self, scripts: Mapping[Key, Policy]) -> dict[Key, Played]:
        """Plays an episode for each script, some at once."""
        self.policy.scripts |= scripts
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = dict(zip(scripts, pool.map(self._one, scripts), strict=True))
        played = {key: self.policy.played.pop(key, Played()) for key in scripts}
        for key, result in results.items():
            self._add_record(played[key], result)
        return played

    def _one(self, key: Key) -> EpisodeResult:
        task_id, behaviour = key
        row = self.rows[task_id]
        spec = EpisodeSpec(
            episode_id=f"{abs(hash(key)):x}",
            task_id=task_id,
            group_id=task_id,
            sample_index=0,
            row={**row, "info": {**row["info"], "behaviour": behaviour}},
        )
        (result,) = self._worker.play([spec])
        self._base_states |= result.states
        del self.policy.scripts[key]
        return result

    def _add_record(self, played: Played, result: EpisodeResult) -> None:
        """Adds to what the policy saw what the record says; the state is put together from its patches."""
        played.record = record = json.loads(result.record)
        if result.status == "failed":
            played.error = f"{record['error']['stage']}: {record['error']['message']}"
            return
        metrics = json.loads(record["metrics"])
        played.utility = bool(metrics["utility"])
        success = metrics["attack_success"]
        played.attack_success = None if success is None else bool(success)
        patches = [record["initial_state_patch"], *(step["state_patch"] for step in record["steps"])]
        played.state = self._state(record["initial_state_id"], [json.loads(patch) for patch in patches])

    def _state(self, state_id: str, patches: list[Any]) -> dict[str, str]:
        """The state at the end: the base state with the patches, of which only some fields are touched."""
        if state_id not in self._base_fields:
            # It came with the first episode that is done; another thread may be about to note it.
            deadline = time.monotonic() + 60
            while state_id not in self._base_states and time.monotonic() < deadline:
                time.sleep(0.01)
            base = json.loads(self._base_states[state_id])
            self._base_fields[state_id] = {name: json.dumps(value) for name, value in base.items()}
            self._plain_fields[state_id] = plain_state(base)
        touched = {operation["path"].split("/")[1] for patch in patches for operation in patch}
        state = {name: json.loads(self._base_fields[state_id][name]) for name in touched}
        for patch in patches:
            state = jsonpatch.apply_patch(state, patch, in_place=True)
        return {**self._plain_fields[state_id], **plain_state(state)}


@contextmanager
def ours(
    args: dict[str, Any],
    backend: Any = "process",
    image: str | None = None,
    folder: Path | None = None,
    model: str = "scripted",
) -> Iterator[Ours]:
    """A worker for these `environment.args`, up while the context lasts."""
    policy = ScriptedPolicy()
    environment = EnvironmentSettings(id="agentdojo", args={"attack_model": "local", **args}, folder=folder)
    settings = WorkerSettings(
        run_id="parity",
        environment=environment,
        sandbox=SandboxSettings(backend=backend, image=image),
        policy=PolicyEndpoint(kind="oracle", model=model, sampling=SamplingSettings(temperature=TEMPERATURE)),
        episodes=AT_ONCE,
    )
    rows = ClassicEnvironment(environment, policy=model).rows()
    with mock.patch("workers.environments.classic.environment.OracleClient", lambda: policy):
        worker = RolloutWorker(settings, "parity")
    try:
        worker.ready()
        yield Ours(worker, policy, {row["info"]["task_id"]: row for row in rows})
    finally:
        worker.stop()
