"""One episode of an agent: it is started in the session, reaches its model by the gateway, and is ended."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import verifiers as vf

from workers.environments.agents.base import ANSWER_FILE, INSTRUCTION_FILE, Agent, Launch, ModelAccess
from workers.environments.tracing import EpisodeTrace
from workers.errors import PolicyError, ToolsetError
from workers.gateway.connections import Gateway
from workers.gateway.limits import AgentLimits, LimitWatch
from workers.gateway.recorder import CallRecorder
from workers.policy.oracle_client import OracleClient
from workers.sandbox.base import Session

_LOOK = 4.0
"""Seconds between two looks at an agent that runs; one that ends is noticed at once."""
_SLACK = 30.0
"""Seconds beyond that for the session to answer."""
LONGEST_END = _LOOK + 2 * _SLACK
"""Seconds after an agent's time is over by which its session has told of its end, or is lost."""
_INSTRUCTION = INSTRUCTION_FILE.removeprefix("{home}/")
_SAID = 2000
"""Most characters of an agent's output in an error."""


class AgentError(Exception):
    """An agent made nothing of its episode: its own fault or its config's, which would come again."""


@dataclass
class AgentEnd:
    """What became of an agent."""

    ended_by: str
    """`agent_finished`, `agent_failed`, or the limit that it reached."""
    status: int | None
    """Its exit code; None where it was killed."""
    output: str
    """The end of what it printed."""
    answer: str | None
    """What it wrote as its last words."""
    seconds: float
    calls: int
    """Model calls that were answered."""
    cost: float | None
    unknown_routes: list[str]
    """Routes that it asked and that do not exist."""


class AgentPlay:
    """Plays one episode.

    Args:
        agent: Who plays.
        limits: How much it may ask for.
        state: verifiers' state of the episode.
        trace: Our notes on it.
        env: Variables of the user's own.
    """

    def __init__(
        self, agent: Agent, limits: AgentLimits, state: Any, trace: EpisodeTrace, env: dict[str, str]
    ) -> None:
        self._agent = agent
        self._env = env
        self._session: Session = state["sandbox"]
        self.trace = trace
        self._recorder = CallRecorder(state, trace, agent.id, LimitWatch(limits))
        self._gateway = Gateway(self._recorder)
        self._oracle = isinstance(state["client"], OracleClient)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AgentPlay":
        return self  # verifiers copies the state that carries us

    def serve(self) -> None:
        """Has the session's programs reach the gateway; before it is opened."""
        self._session.serve_connections(self._gateway.connect)

    async def close(self) -> None:
        """Ends the gateway. Idempotent."""
        await self._gateway.close()

    async def run(self, instruction: str) -> AgentEnd:
        """Has the agent carry out a task.

        Raises:
            AgentError: It ended without one model call.
            verifiers.Error: The policy failed, or the session was lost.
        """
        if self._oracle:
            raise AgentError(
                "policy.kind `oracle` knows the tools of the environment's own loop, and an agent has its "
                "own; leave out environment.args.agent, or give another policy"
            )
        self._recorder.start()
        access = ModelAccess(self._session.gateway_address, self._gateway.key, self._recorder.model)
        began = time.monotonic()
        try:
            await self._start(self._agent.launch(instruction, access), access, instruction)
            told, killed = await self._watch()
        finally:
            await self.close()
            self._recorder.close()
        self._check(told)
        limits = self._recorder.limits
        ended = "agent_finished" if told["status"] == 0 else "agent_failed"
        return AgentEnd(
            ended_by=limits.reached or ended,
            status=None if killed else told["status"],
            output=told["output"],
            answer=told.get("answer"),
            seconds=round(time.monotonic() - began, 3),
            calls=len(self.trace.turns),
            cost=limits.cost if limits.limits.prices is not None else None,
            unknown_routes=list(self._gateway.application.unknown_routes)[:8],
        )

    async def _start(self, launch: Launch, access: ModelAccess, instruction: str) -> None:
        files = {**launch.files, _INSTRUCTION: instruction}
        await self._do(
            "start_agent",
            _SLACK,
            command=launch.command,
            environment={
                **access.environment,
                "KUMITE_ANSWER_FILE": ANSWER_FILE,
                **launch.environment,
                **self._env,
            },
            files=files,
            as_they_are=[_INSTRUCTION],
        )

    async def _watch(self) -> tuple[dict[str, Any], bool]:
        """Waits for the agent's end, and brings it about where its time is over.

        Returns:
            What the session says of it, and whether it was killed.
        """
        limits = self._recorder.limits
        killed = False
        while True:
            told = await self._do("wait_agent", _LOOK + _SLACK, seconds=min(_LOOK, self._time_left()))
            if not told["running"]:
                break
            if self._recorder.failed.is_set() or self._time_left() <= 0:
                killed = True
                if limits.reached is None and limits.seconds_left <= 0:
                    limits.reached = "max_seconds"
                break
        ended = await self._do("stop_agent", _SLACK)  # what it has left running goes, too
        return ended, killed

    def _time_left(self) -> float:
        """Seconds until the agent is killed: its own time, and what it has to end after a refusal."""
        limits = self._recorder.limits
        left = limits.seconds_left + limits.limits.grace
        if limits.refused_at is not None:
            left = min(left, limits.refused_at + limits.limits.grace - time.monotonic())
        return max(0.0, left)

    async def _do(self, tool: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        result = await self._session.call(tool, arguments, timeout)
        if (
            result.error is not None and tool != "start_agent"
        ):  # by then, its programs may have brought it about
            error = ToolsetError(f"agent {self._agent.id}: {result.error}")
            error.raised = AgentError.__name__
            raise error
        if result.error is not None:
            raise AgentError(f"agent {self._agent.id}: {result.error}")
        return json.loads(result.content)

    def _check(self, told: dict[str, Any]) -> None:
        """Raises what an episode failed with."""
        if self._recorder.failure is not None:
            self.trace.stage = "policy"
            raise self._recorder.failure
        if self.trace.turns:
            return
        refusal = self._recorder.refusal
        if refusal is not None and refusal.__cause__ is not None:
            self.trace.stage = "policy"
            cause = refusal.__cause__
            raise PolicyError(f"the first model call was refused: {cause}") from (
                cause if isinstance(cause, vf.Error) else None
            )
        application = self._gateway.application
        status = told["status"]
        how = "was killed" if status is None else f"exited with {status}"
        why = "it made no model call"
        if self._gateway.spoke_http2:
            why = "it speaks HTTP/2 only; the gateway speaks HTTP/1.1"
        elif application.unknown_routes:
            why = f"it asked for {', '.join(list(application.unknown_routes)[:3])}, which the gateway has not"
        elif status == 127:
            why = "its program was not found, or could not be started: name one that the image has"
        raise AgentError(
            f"agent {self._agent.id} {how}, and {why}; "
            f"its last output: {told['output'][-_SAID:].strip() or '(none)'}"
        )


def as_details(end: AgentEnd, agent: Agent) -> dict[str, Any]:
    """What is put on record of an agent's end."""
    return {"id": agent.id, "version": agent.version, **asdict(end)}
