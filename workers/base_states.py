"""The base states that a worker has named: each goes with one result, or another where that is not used."""

import logging
from collections.abc import Collection

from workers.environments.json_text import json_text
from workers.errors import SandboxError
from workers.sandbox.base import Session

_log = logging.getLogger(__name__)


class BaseStates:
    """Remembers which episode's result has a base state, so that it need not go with every one."""

    def __init__(self) -> None:
        self._named: dict[str, str] = {}

    async def first_state_of(self, session: Session, episode_id: str) -> dict[str, str]:
        """Returns the base state of a session, as JSON text by id; empty where another result has it.

        Args:
            session: It must not have been closed.
            episode_id: Whose result it is to go with.
        """
        state_id = session.opened.state_id if session.opened else None
        if state_id is None or state_id in self._named or not session.sandbox.alive:
            return {}
        self._named[state_id] = episode_id
        try:
            return {state_id: json_text(await session.sandbox.base_state(state_id))}
        except SandboxError as error:
            self.forget([episode_id])
            _log.warning("the base state %s is not to be had: %s", state_id, error)
            return {}

    def forget(self, episode_ids: Collection[str]) -> None:
        """Says that these episodes' results are not used: what they named is to be named again."""
        self._named = {state: by for state, by in self._named.items() if by not in episode_ids}
