"""What ended a container, as the engine remembers it: something inside of it, or somebody outside."""

import logging
import time
from contextlib import closing
from typing import Any, cast

import docker
import docker.errors
import requests

from workers.errors import EndCause
from workers.sandbox.engine import engine

_log = logging.getLogger(__name__)
_LOOK_BACK = 24 * 3600
"""Seconds back to ask for events from. The engine keeps its last 256 of them."""
_KILLED = 128 + 9
_EVENTS_COME_LATE = 2.0
"""Seconds to wait for the engine to say how a container died: its stream may close before that."""


def find_container_end(container: str) -> EndCause:
    """Asks the engine why a container is not to be talked to any more.

    Returns:
        `memory`: the kernel killed the tool host because the container's memory had run out. `tool_host`: the
        tool host ended by itself, with an error. `time`: it runs, and does not answer. `engine`: whatever
        else, such as a container that somebody stopped, paused or removed, or an engine that is away.
    """
    try:
        with engine() as client:
            deadline = time.monotonic() + _EVENTS_COME_LATE
            while (cause := _judge(_events_of(client, container))) is None:
                state = _state_of(client, container)
                if state is not None and state["Running"] and time.monotonic() > deadline:
                    return "engine" if state["Paused"] else "time"
                if time.monotonic() > deadline:
                    return "engine"
                time.sleep(0.05)
            return cause
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        # As a text: the error would keep the frames that it came through, and with them open connections.
        said = str(error)
        _log.warning("the Docker engine could not say what ended container %s: %s", container[:12], said)
        return "engine"


def _judge(events: list[dict[str, Any]]) -> EndCause | None:
    """The cause that a container's events show; None: they do not show its end yet."""
    actions = [str(event.get("Action", event.get("status", ""))) for event in events]
    died = [event["Actor"]["Attributes"].get("exitCode", "0") for event in events if event["Action"] == "die"]
    if not died:
        return None
    if "kill" in actions or "stop" in actions:  # whatever had run out of memory in there before
        return "engine"
    code = int(died[-1])
    if code == _KILLED:  # that memory was wanting may be told after the end
        return "memory" if "oom" in actions else None
    return "engine" if code == 0 else "tool_host"


def _events_of(client: docker.DockerClient, container: str) -> list[dict[str, Any]]:
    now = time.time()
    api: Any = client.api
    listed: Any = api.events(
        since=int(now) - _LOOK_BACK,
        until=f"{now:.6f}",  # it waits for a time that is still to come
        filters={"container": container, "type": "container"},
        decode=True,
    )
    with closing(listed):
        return list(cast("list[dict[str, Any]]", listed))


def _state_of(client: docker.DockerClient, container: str) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", client.api.inspect_container(container))["State"]
    except docker.errors.NotFound:
        return None
