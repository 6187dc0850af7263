"""Both sides' requests, as they reach a server: compared key by key, less the differences that are listed."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from tests.helpers.mock_policy import MockPolicy, Reply
from tests.parity.conversation import from_openai, timeless
from tests.parity.script import Action, Levelled, Policy
from workers.environments.agentdojo.defenses import load_defense
from workers.environments.agentdojo.environment import AgentDojoArgs
from workers.environments.agentdojo.guard import apply_system_message_defenses
from workers.environments.agentdojo.tasks import make_rows
from workers.records import EpisodeSpec
from workers.rollout_worker import RolloutWorker
from workers.settings import (
    EnvironmentSettings,
    PolicyEndpoint,
    SamplingSettings,
    SandboxSettings,
    WorkerSettings,
)

Request = dict[str, Any]
SAMPLING = SamplingSettings(temperature=0.75, max_tokens=4096)
OURS_ALONE = {"temperature": 0.75, "max_completion_tokens": 4096, "max_tokens": 4096, "model": "scripted"}
"""What our requests say of sampling, where the config asks for `SAMPLING`."""


class ScriptedServer(MockPolicy):
    """A policy behind a port that acts by the script of the episode which is played."""

    acts: Levelled

    def _answer(self, reply: Reply, body: dict[str, Any]) -> web.Response:
        offered = [tool["function"] for tool in body.get("tools") or []]
        action = self.acts.act(from_openai(body["messages"]), offered, body.get("tool_choice") != "none")
        return web.json_response(completion(action))


def completion(action: Action) -> dict[str, Any]:
    """A chat completion that says what an action says."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
        for call in action.calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": action.content, "tool_calls": calls or None}
    if action.reasoning is not None:
        message["reasoning_content"] = action.reasoning
    choice = {"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [choice],
        "usage": usage,
    }


class Requests:
    """Our side: a worker whose policy is behind a port."""

    def __init__(self, worker: RolloutWorker, server: ScriptedServer) -> None:
        self._worker = worker
        self._server = server

    def play(self, row: Mapping[str, Any], policy: Policy) -> list[Request]:
        """Plays an episode of a row; returns what was asked of the policy in it."""
        self._server.acts = Levelled(policy)
        self._server.requests.clear()
        task_id = row["info"]["task_id"]
        spec = EpisodeSpec(
            episode_id="requests", task_id=task_id, group_id=task_id, sample_index=0, row=dict(row)
        )
        (result,) = self._worker.play([spec])
        record = json.loads(result.record)
        assert record["status"] == "finished", record["error"]
        return list(self._server.requests)


def rows_of(args: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that these `environment.args` select, without the data set that they are handed out in."""
    chosen = AgentDojoArgs.model_validate(dict(args))
    rows = make_rows(chosen, chosen.system_message, "scripted")
    defenses = [load_defense(choice) for choice in chosen.defense]
    for row in rows:
        system = row["prompt"][0]
        system["content"] = apply_system_message_defenses(defenses, system["content"])
    return rows


@contextmanager
def our_requests(args: Mapping[str, Any]) -> Iterator[Requests]:
    """A worker for these `environment.args`, up while the context lasts; it plays any row of their suites."""
    with ScriptedServer(model="scripted") as server:
        settings = WorkerSettings(
            run_id="parity",
            environment=EnvironmentSettings(id="agentdojo", args=dict(args)),
            sandbox=SandboxSettings(backend="process"),
            policy=PolicyEndpoint(
                kind="openai", model="scripted", base_url=server.base_url, sampling=SAMPLING
            ),
            episodes=1,
        )
        worker = RolloutWorker(settings, "parity")
        try:
            yield Requests(worker, server)
        finally:
            worker.stop()


def differences(ours: Sequence[Request], theirs: Sequence[Request], seen: Counter[str]) -> list[str]:
    """Compares the requests of an episode, key by key.

    Args:
        ours: Our requests.
        theirs: AgentDojo's.
        seen: Counts how often each of the listed differences was met.

    Returns:
        What differs, and is not listed in docs/agentdojo.md.
    """
    found = [] if len(ours) == len(theirs) else [f"{len(ours)} requests here, {len(theirs)} there"]
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        expected = _as_we_send(other, seen)
        sent = {name: value for name, value in mine.items() if OURS_ALONE.get(name) != value}
        sent["messages"] = [_without_thoughts(message, seen) for message in sent["messages"]]
        for name in sent.keys() | expected.keys():
            here, there = sent.get(name), expected.get(name)
            if here == there:
                continue
            if name != "messages" or not isinstance(here, list) or not isinstance(there, list):
                found.append(f"request {place}: {name}: here {here}, there {there}")
                continue
            pairs = zip(here, there, strict=False)
            found += [f"request {place}: here {a}, there {b}" for a, b in pairs if a != b]
            if len(here) != len(there):
                found.append(f"request {place}: {len(here)} messages here, {len(there)} there")
    return found


def _as_we_send(request: Request, seen: Counter[str]) -> Request:
    """AgentDojo's request with each of the listed differences made, and counted."""
    sent = dict(request)
    sent.pop("model", None)
    if (
        sent.get("tool_choice") == "none" and sent.get("temperature") == 0.0
    ):  # the filter's question, and no other
        seen["temperature"] += 1
        del sent["temperature"]
    if sent.get("tool_choice") == "auto":  # which is the same as none
        seen["tool_choice"] += 1
        del sent["tool_choice"]
    sent["messages"] = [_message(message, seen) for message in request["messages"]]
    return sent


def _message(message: Mapping[str, Any], seen: Counter[str]) -> dict[str, Any]:
    made = dict(message)
    if made["role"] == "developer":
        seen["developer"] += 1
        made["role"] = "system"
    if isinstance(made.get("content"), list):
        seen["blocks"] += 1
        made["content"] = "".join(part["text"] for part in made["content"])
    if made["role"] == "tool":
        seen["name"] += 1
        del made["name"]
    if made["role"] == "assistant":
        calls = made.get("tool_calls")
        if calls and made["content"] == "":
            seen["empty text"] += 1
            made["content"] = None
        if not calls and made["content"] is None:
            seen["no text"] += 1
            made["content"] = ""
    return _without_nulls(made)


def _without_thoughts(message: Mapping[str, Any], seen: Counter[str]) -> dict[str, Any]:
    """Our message without what the model thought before it, which AgentDojo forgets."""
    made = dict(message)
    if made["role"] == "assistant":
        seen["reasoning"] += made.pop("reasoning_content", None) is not None
    return _without_nulls(made)


def _without_nulls(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with what is null left out, times of day equal, and arguments as values."""
    made = {name: value for name, value in message.items() if value is not None}
    if isinstance(made.get("content"), str):
        made["content"] = timeless(made["content"])
    if "tool_calls" in made:
        made["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _parsed(call["function"]["arguments"])}}
            for call in made["tool_calls"]
        ]
    return made


def _parsed(arguments: str) -> Any:
    (call,) = from_openai(
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "", "function": {"name": "", "arguments": arguments}}],
            }
        ]
    )[0].calls
    return call.arguments
