"""One episode on a process's main thread, where a debugger works, shown as it goes on.

It is also the process in which an environment with packages of its own is debugged: started with the
descriptor of a socket, it is told what to play, and hands out what there is to show.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from workers.environments.base import RolloutEnvironment
from workers.environments.messages import to_record, to_records
from workers.environments.opening import open_environment
from workers.episode import EpisodePlayer
from workers.errors import EnvironmentLoadError
from workers.lanes.wire import read_message_now, send_message_now
from workers.policy.requests import plain_message
from workers.records import EpisodeRecord, EpisodeSpec, Message
from workers.sandbox.base import Owner
from workers.sandbox.pools import SandboxPools
from workers.settings import WorkerSettings


@dataclass(frozen=True)
class Shown:
    """Messages of one of the episode's conversations."""

    conversation: str
    """Tells the conversations of an episode apart."""
    agent: str
    """Who talks to its policy in it. Empty: the only agent that there is."""
    messages: list[Message]
    is_answer: bool
    """Whether this is what the policy has just said, and not all that it is asked with."""


Show = Callable[[Shown], None]


def play_debug_episode(
    settings: WorkerSettings, environment: RolloutEnvironment, spec: EpisodeSpec, show: Show
) -> EpisodeRecord:
    """Plays one episode in this process.

    Args:
        settings: As a worker has them.
        environment: What is played.
        spec: The episode.
        show: Is called with what the policy is asked and says, as it comes.

    Returns:
        The episode's record.
    """
    return asyncio.run(_play(settings, environment, spec, show))


async def _play(
    settings: WorkerSettings, environment: RolloutEnvironment, spec: EpisodeSpec, show: Show
) -> EpisodeRecord:
    pool = None
    if environment.toolset is not None:
        pool = SandboxPools(environment.toolset, settings.sandbox, Owner("debug", "debug"), ahead=1)
    client: Any = environment.open_client(settings.policy, settings.policies)
    watch = _watch_v1 if environment.api == "v1" else _watch_classic
    watch(client, show)
    player = EpisodePlayer(settings, environment, pool, client, "debug", "here")
    try:
        [result] = await player.play([spec])
    finally:
        await player.shut_down()
        await environment.tear_down()
    record = EpisodeRecord.model_validate_json(result.record)
    if environment.api == "classic":
        show(Shown("", "", record.messages, is_answer=False))
    return record


def _watch_classic(client: Any, show: Show) -> None:
    ask = client.get_response

    async def get_response(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        show(Shown("", "", to_records(prompt), is_answer=False))
        response = await ask(prompt, *args, **kwargs)
        show(Shown("", "", to_records([response.message]), is_answer=True))
        return response

    client.get_response = get_response


def _watch_v1(client: Any, show: Show) -> None:
    from workers.environments.v1.play import current_play

    ask = client.get_response

    async def get_response(dialect: Any, body: Any, sampling: Any, session_id: str = "", **more: Any) -> Any:
        play = current_play()
        session: Any = play.interception.state_routes[session_id]
        agent = str(session.trace.agent.name) if len(play.contexts) > 1 else ""
        asked = [to_record(plain_message(message)) for message in body["messages"]]
        show(Shown(session_id, agent, asked, is_answer=False))
        response = await ask(dialect, body, sampling, session_id, **more)
        said = play.calls[session_id][-1].action
        if said is not None:
            show(Shown(session_id, agent, [said], is_answer=True))
        return response

    client.get_response = get_response


def main() -> NoReturn:
    """Plays what it is told to by its socket."""
    told = socket.socket(fileno=int(sys.argv[1]))
    settings, spec = read_message_now(told)

    def show(shown: Shown) -> None:
        messages = [message.model_dump(mode="json") for message in shown.messages]
        send_message_now(told, ("shown", (shown.conversation, shown.agent, messages, shown.is_answer)))

    try:
        environment = open_environment(settings.environment, settings.search_path, settings.policy.model)
        record = play_debug_episode(settings, environment, spec, show)
        send_message_now(told, ("record", record.model_dump_json()))
    except EnvironmentLoadError as error:
        send_message_now(told, ("failed", str(error)))
    sys.stdout.flush()
    os._exit(0)
