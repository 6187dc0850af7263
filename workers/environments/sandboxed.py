"""The base of the bundled environments: multi-turn episodes, each with its tools in a session of a sandbox.

A Kumite worker binds a session to `state["sandbox"]` before `setup_state`. Elsewhere, as under
verifiers' own `vf-eval`, the environment brings up sandboxes of its own.
"""

import asyncio
import logging
import uuid
from typing import Any, cast

import verifiers as vf

from workers.errors import PolicyError, SandboxError
from workers.sandbox.base import Owner, Session, ToolsetSpec
from workers.sandbox.pools import SandboxPools, SandboxWish
from workers.sandbox.task_images import image_of
from workers.settings import SandboxSettings

_log = logging.getLogger(__name__)


class OwnSandboxes:
    """Sandboxes that an environment brings up where nobody gives it one.

    Args:
        toolset: What to load in them.
        settings: How they are made.
    """

    def __init__(self, toolset: ToolsetSpec, settings: SandboxSettings) -> None:
        self._toolset = toolset
        self._settings = settings
        self._pool: SandboxPools | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: set[Session] = set()

    async def acquire(self, image: str | None = None) -> Session:
        """A session, not opened yet.

        Args:
            image: The image that the task names. None: the environment's.

        Raises:
            SandboxStartError: No sandbox can be brought up.
        """
        loop = asyncio.get_running_loop()
        if self._pool is None or self._loop is not loop:  # each evaluation may run its own
            self._pool = SandboxPools(self._toolset, self._settings, Owner("vf-eval", "vf-eval"))
            self._loop = loop
        session = await self._pool.acquire(uuid.uuid4().hex[:16], SandboxWish(image=image))
        self._sessions.add(session)
        return session

    async def release(self, session: Session) -> None:
        """Closes a session of one of these, and the sandbox with it, if no other may use it.

        Any other is its worker's to close. The episode has its score by now, if it comes to one, and nothing
        takes that back: what goes wrong here is only logged.
        """
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        try:
            await (session.close() if self._pool is None else self._pool.release(session))
        except SandboxError as error:
            _log.warning("a session could not be closed: %s", error)

    async def close(self) -> None:
        """Ends them. What lives on another event loop can't be ended from here; its pipe closes with it."""
        pool, self._pool = self._pool, None
        if pool is not None and self._loop is asyncio.get_running_loop():
            await pool.close()


class SandboxedEnv(vf.StatefulToolEnv):
    """An environment whose tools are those of the episode's session.

    Args:
        toolset: What its sandboxes must have loaded.
        sandbox: Settings of the sandboxes that it brings up when nobody gives it one.
        **kwargs: See `vf.StatefulToolEnv`.
    """

    def __init__(self, toolset: ToolsetSpec, sandbox: SandboxSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.toolset = toolset
        self._sandboxes = OwnSandboxes(toolset, sandbox)

    async def get_model_response(
        self, state: vf.State, prompt: vf.Messages, *args: Any, **kwargs: Any
    ) -> Any:
        """Asks the policy.

        Raises:
            PolicyError: The very first prompt is longer than the policy's context.
        """
        try:
            return await super().get_model_response(state, prompt, *args, **kwargs)
        except vf.OverlongPromptError as error:
            if state["trajectory"]:
                raise  # to verifiers it is the end of the episode, which is scored as it stands
            raise PolicyError(f"the first prompt is longer than the policy's context: {error}") from error

    def update_tool_args(
        self, tool_name: str, tool_args: dict[str, Any], messages: vf.Messages, state: vf.State, **_: Any
    ) -> dict[str, Any]:
        """Tool calls take no hidden arguments: the session knows its episode."""
        return tool_args

    @vf.cleanup
    async def score_session(self, state: vf.State) -> None:
        """Has the session examined, now that the policy has had its last turn and before the rubric looks."""
        session = cast("Session | None", state.get("sandbox"))
        if session is None:
            return
        try:
            if session.opened is not None and state.get("error") is None and state.get("trajectory"):
                await self._evaluate_session(session, state)
        finally:
            await self._sandboxes.release(session)

    async def _evaluate_session(self, session: Session, state: vf.State) -> None:
        """Puts in the state what the rubric weighs. An environment whose rubric needs nothing leaves it."""

    @vf.teardown
    async def close_own_sandboxes(self) -> None:
        """Ends the sandboxes that the environment brought up itself.

        verifiers calls this at the exit of the process, on an event loop made for it.
        """
        await self._sandboxes.close()

    async def _session(self, state: vf.State) -> Session:
        """The episode's session, not opened yet."""
        if state.get("sandbox") is None:
            state["sandbox"] = await self._sandboxes.acquire(image_of(state))
        return cast(Session, state["sandbox"])
