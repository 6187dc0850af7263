"""What attacks inject where a user's own code has a part in it, computed once for each pair of tasks."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from workers.errors import SessionLost, SessionSetupError, SessionTimeout
from workers.sandbox.base import Session

_Pair = tuple[str | None, ...]


class OwnAttacks:
    """Injections of attacks of a user's own, and of any attack on a suite of a user's own.

    Such an attack may take long; so may the tools of such a suite, which an attack runs. It is computed in a
    session that is there for it alone: the tool host and its other sessions go on meanwhile. What it comes to
    is kept for all samples of the pair that this process plays. Where it fails, those that wait for it fail
    with it; the next one tries again.

    Args:
        limit: Seconds that an attack may take for one pair.
        suites: The suites of a config; None: AgentDojo's.
    """

    def __init__(self, limit: float, suites: Sequence[str] | None = None) -> None:
        self._limit = limit
        self._agentdojos = None if suites is None else {name for name in suites if ":" not in name}
        self._injections: dict[_Pair, dict[str, Any]] = {}
        self._failures: dict[_Pair, SessionSetupError] = {}
        self._computing: defaultdict[_Pair, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sessions = 0

    async def task(self, session: Session, task: dict[str, Any]) -> dict[str, Any]:
        """Returns the task to open a session with: with its injections, where they are computed beforehand.

        Args:
            session: The session that is to be opened; another one of its sandbox computes.
            task: A row's `info`.

        Raises:
            SessionSetupError: The attack can't be carried out on the pair, or takes too long.
            SandboxError: The sandbox could not.
        """
        if not task.get("attack") or not self._runs_own_code(task):
            return task
        names = ("suite", "user_task", "injection_task", "attack", "attack_model")
        pair = tuple(cast("str | None", task.get(name)) for name in names)
        known = self._failures.get(pair)
        async with self._computing[pair]:
            failure = self._failures.get(pair)
            if failure is not None and failure is not known:  # it failed while this one waited
                raise SessionSetupError(str(failure)) from failure
            if pair not in self._injections:
                try:
                    self._injections[pair] = await self._compute_injections(session, task)
                except SessionSetupError as error:
                    self._failures[pair] = error
                    raise
        return {**task, **self._injections[pair]}

    def _runs_own_code(self, task: dict[str, Any]) -> bool:
        own_suite = self._agentdojos is not None and task["suite"] not in self._agentdojos
        return own_suite or ":" in task["attack"]

    async def _compute_injections(self, beside: Session, task: dict[str, Any]) -> dict[str, Any]:
        self._sessions += 1
        session = beside.sandbox.session(f"{beside.name}-attack{self._sessions}")
        try:
            await session.open({**task, "computes_injections": True}, timeout=self._limit)
            return cast(dict[str, Any], await session.state())
        except SessionTimeout as error:
            what = f"it did not end within environment.args.attack_timeout, {self._limit:g} s"
            raise SessionSetupError(f"{_describe_pair(task)}: {what}") from error
        except SessionLost as error:
            if error.cause not in ("session", "memory"):
                raise
            raise SessionSetupError(f"{_describe_pair(task)}: it ended its process: {error}") from error
        finally:
            await session.close()


def _describe_pair(task: dict[str, Any]) -> str:
    return (
        f"attack {task['attack']!r} on {task['user_task']} with {task['injection_task']} of {task['suite']}"
    )
