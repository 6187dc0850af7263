"""What attacks of a user's own inject, computed in a sandbox once for each pair of tasks."""

import asyncio
from collections import defaultdict
from typing import Any, cast

from workers.errors import SessionSetupError, SessionTimeout
from workers.sandbox.base import Session

_Pair = tuple[str | None, ...]


class OwnAttacks:
    """Injections of attacks of a user's own.

    Such an attack may take long. It is computed in a session that is there for it alone: the tool host and
    its other sessions go on meanwhile. What it comes to is kept for all samples of the pair that this process
    plays.

    Args:
        limit: Seconds that an attack may take for one pair.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._injections: dict[_Pair, dict[str, str]] = {}
        self._computing: defaultdict[_Pair, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sessions = 0

    async def task(self, session: Session, task: dict[str, Any]) -> dict[str, Any]:
        """Returns the task to open a session with: with its injections, where the attack is a user's own.

        Args:
            session: The session that is to be opened; another one of its sandbox computes.
            task: A row's `info`.

        Raises:
            SessionSetupError: The attack can't be carried out on the pair, or takes too long.
            SandboxError: The sandbox could not.
        """
        if ":" not in (task.get("attack") or ""):
            return task
        names = ("suite", "user_task", "injection_task", "attack", "attack_model")
        pair = tuple(cast("str | None", task.get(name)) for name in names)
        async with self._computing[pair]:
            if pair not in self._injections:
                self._injections[pair] = await self._compute_injections(session, task)
        return {**task, "injections": self._injections[pair]}

    async def _compute_injections(self, beside: Session, task: dict[str, Any]) -> dict[str, str]:
        self._sessions += 1
        session = beside.sandbox.session(f"{beside.name}-attack{self._sessions}")
        try:
            await session.open({**task, "computes_injections": True}, timeout=self._limit)
            return cast(dict[str, str], await session.state())
        except SessionTimeout as error:
            raise SessionSetupError(
                f"attack {task['attack']!r} on {task['user_task']} with {task['injection_task']} of "
                f"{task['suite']}: it did not end within environment.args.attack_timeout, {self._limit:g} s"
            ) from error
        finally:
            await session.close()
