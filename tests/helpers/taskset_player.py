"""Plays tasksets as a lane of a worker does, in whatever Python it is to be; gives their records.

The process that plays reads JSON texts from one descriptor, a taskset a line, and writes to another.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.helpers.fork_server import start_forked
from workers.lanes.interpreter import OwnPython
from workers.records import EpisodeRecord

_TIMEOUT = 420


def taskset(
    file: Path,
    base_url: str,
    args: dict[str, Any] | None = None,
    tokenizer: str | None = None,
    **policies: str,
) -> dict[str, Any]:
    """What to play: every task of a taskset once.

    Args:
        file: The taskset's module.
        base_url: Where the policy is.
        args: `environment.args`.
        tokenizer: The model's folder, where tokens are to be exact.
        policies: Where those of `policies` are.
    """
    given = {"id": str(file), "base_url": base_url, "args": args or {}, "policies": policies}
    return {**given, "tokenizer": tokenizer}


def list_tasks(python: OwnPython, file: Path, args: list[dict[str, Any]]) -> list[list[str] | str]:
    """The ids of a taskset's tasks with each of these arguments, or what is wrong with them."""
    return _ask(python, [{"id": str(file), "args": each} for each in args])


def play(python: OwnPython, tasksets: list[dict[str, Any]]) -> list[list[EpisodeRecord] | str]:
    """The records of each taskset's episodes; what is wrong with it where it does not load."""
    return [
        result if isinstance(result, str) else [EpisodeRecord.model_validate(record) for record in result]
        for result in _ask(python, tasksets)
    ]


def _ask(python: OwnPython, tasksets: list[dict[str, Any]]) -> list[Any]:
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as answered:
        asked.write("\n".join(json.dumps(each) for each in tasksets))
        asked.seek(0)
        passed = (asked.fileno(), answered.fileno())
        code = start_forked(__name__, python, os.environ, passed).wait(_TIMEOUT)
        assert code == 0, f"the process that plays ended with {code}"
        answered.seek(0)
        return [json.loads(line) for line in answered]


async def _play(given: dict[str, Any]) -> list[dict[str, Any]]:
    from workers.environments.opening import open_environment
    from workers.episode import EpisodePlayer
    from workers.records import EpisodeSpec
    from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

    def endpoint(base_url: str, model: str) -> PolicyEndpoint:
        return PolicyEndpoint(
            kind="openai", model=model, base_url=base_url, request_timeout=5.0, token_ids=model == "mock"
        )

    environment = EnvironmentSettings(id=given["id"], args=given["args"])
    policy = endpoint(given["base_url"], "mock")
    if given["tokenizer"] is not None:
        policy = policy.model_copy(
            update={"tokens": "exact", "tokenizer": given["tokenizer"], "request_timeout": 60.0}
        )
    settings = WorkerSettings(
        run_id="r",
        environment=environment,
        sandbox=SandboxSettings(),
        policy=policy,
        policies={name: endpoint(url, name) for name, url in given["policies"].items()},
    )
    loaded = open_environment(environment)
    player = await EpisodePlayer.create(settings, loaded, "w", "here")
    rows = loaded.rows()
    records: list[dict[str, Any]] = []
    for number in range(len(rows)):
        spec = EpisodeSpec(
            episode_id=f"e{number}",
            task_id=str(number),
            group_id=str(number),
            sample_index=0,
            row=rows[number],
        )
        [result] = await player.play([spec])
        records.append(json.loads(result.record))
    await player.shut_down()
    await loaded.tear_down()
    return records


def _list(given: dict[str, Any]) -> list[str]:
    from workers.environments.opening import open_environment
    from workers.settings import EnvironmentSettings

    rows = open_environment(EnvironmentSettings(id=given["id"], args=given["args"])).rows()
    return [json.loads(rows[index]["info"])["task_id"] for index in range(len(rows))]


async def _play_all(tasksets: list[dict[str, Any]]) -> list[Any]:
    from workers.errors import EnvironmentLoadError

    results: list[Any] = []
    for given in tasksets:
        try:
            results.append(await _play(given) if "base_url" in given else _list(given))
        except EnvironmentLoadError as error:
            results.append(str(error))
    return results


def main() -> None:
    """Plays what is asked for."""
    asked, answered = (os.fdopen(int(number), mode) for number, mode in zip(sys.argv[1:], "rw", strict=True))
    with asked, answered:
        for played in asyncio.run(_play_all([json.loads(line) for line in asked])):
            answered.write(json.dumps(played) + "\n")
