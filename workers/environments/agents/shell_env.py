"""The shell tasks, played by an agent with a loop and tools of its own."""

from dataclasses import replace
from typing import Any, cast

import verifiers as vf

from workers.environments import tracing
from workers.environments.agents.play import LONGEST_END, AgentEnd, AgentPlay, as_details
from workers.environments.agents.settings import AgentArgs
from workers.environments.shell.shell_env import (
    GRADING_SECONDS,
    ShellArgs,
    ShellEnv,
    end_session,
    shell_toolset,
    task_of,
)
from workers.errors import EnvironmentLoadError, SandboxDied, SessionLost, ToolsetError
from workers.sandbox.base import Session
from workers.sandbox.connection import GRACE
from workers.settings import SandboxSettings

_NOTE = (
    "You work in the current folder of a Linux machine, which has no network; of Python there is the "
    "standard library only. When you are done, end with a short last message."
)
_ENDING = LONGEST_END + GRADING_SECONDS + GRACE
"""Seconds beyond an agent's own in which it is killed, graded and closed, each as slowly as it may be: code
that slows its session down must not get its episode ended without a grade."""


class AgentShellEnv(ShellEnv):
    """Episodes that a program plays in the workspace. Each of its model calls is a step.

    Args:
        args: What to play.
        agent: Who plays.
        sandbox: Settings of the sandbox that the environment brings up when nobody gives it one.
    """

    def __init__(self, args: ShellArgs, agent: AgentArgs, sandbox: SandboxSettings) -> None:
        self._agent = agent.agent()
        self._agent_args = agent
        toolset = replace(
            shell_toolset(args),
            image=self._agent.image,
            own_image=agent.image,
            toolset="sandbox_images.agent.toolset:AgentToolset",
        )
        super().__init__(args, sandbox, toolset)
        self.max_turns = -1  # the gateway counts
        self.sampling_args["max_tokens"] = agent.max_tokens

    async def setup_state(self, state: vf.State) -> vf.State:
        """Opens the episode's session, from whose inside the gateway can be reached."""
        session = await self._session(state)
        trace = tracing.current_trace.get() or tracing.EpisodeTrace(session=session)
        play = AgentPlay(self._agent, self._agent_args.limits, state, trace, self._agent_args.env)
        state["agent_play"] = play
        play.serve()
        return await super().setup_state(state)

    async def get_prompt_messages(self, state: vf.State) -> vf.Messages:
        """Has the agent play the whole episode; there is no turn of the environment's own."""
        session, play = cast(Session, state["sandbox"]), cast(AgentPlay, state["agent_play"])
        trace = play.trace
        trace.stage = "tools"
        try:
            end = await play.run(_instruction(state))
            state["agent_end"] = end
        except (SandboxDied, SessionLost, ToolsetError) as error:
            end_session(state, error)
        if trace.turns:  # the whole of its work is the last step's: no tool call of it passes through here
            trace.turns[0].first_call = 0
            for turn in trace.turns[:-1]:
                turn.last_call = turn.first_call = 0
            trace.turns[-1].first_call, trace.turns[-1].last_call = 0, session.calls
        state["final_env_response"] = []
        return state["prompt"]

    @vf.cleanup(priority=90)
    async def close_gateway(self, state: vf.State) -> None:
        """Breaks off what of the agent may still ask for."""
        play = cast("AgentPlay | None", state.get("agent_play"))
        if play is not None:
            await play.close()

    async def render_completion(self, state: vf.State) -> None:
        """The conversation is that of the last step: an agent has prompts of its own."""
        if not state["trajectory"]:
            state["completion"] = []
            return
        last = state["trajectory"][-1]
        state["prompt"], state["completion"] = last["prompt"], last["completion"]

    def last_words(self, state: vf.State) -> str | None:
        """What the agent has written as such; else the last message of a step that had tools to call."""
        end = cast("AgentEnd | None", state.get("agent_end"))
        if end is not None and end.answer:
            return end.answer
        return super().last_words(state)

    def evidence(self, state: vf.State) -> dict[str, Any]:
        """What goes on record of the agent's end."""
        end = cast("AgentEnd | None", state.get("agent_end"))
        return {} if end is None else {"agent": as_details(end, self._agent)}

    @vf.stop(priority=60)
    async def agent_finished(self, state: vf.State) -> bool:
        """It ended by itself, with exit code 0."""
        return _ended_by(state) == "agent_finished"

    @vf.stop(priority=60)
    async def agent_failed(self, state: vf.State) -> bool:
        """It ended by itself, with another exit code."""
        return _ended_by(state) == "agent_failed"

    @vf.stop(priority=60)
    async def agent_max_turns(self, state: vf.State) -> bool:
        """It had no model calls left."""
        return _ended_by(state) == "max_turns"

    @vf.stop(priority=60)
    async def agent_max_tokens(self, state: vf.State) -> bool:
        """It had no tokens left."""
        return _ended_by(state) == "max_tokens"

    @vf.stop(priority=60)
    async def agent_max_seconds(self, state: vf.State) -> bool:
        """Its time was over."""
        return _ended_by(state) == "max_seconds"

    @vf.stop(priority=60)
    async def agent_max_cost(self, state: vf.State) -> bool:
        """It had cost as much as it may."""
        return _ended_by(state) == "max_cost"


def check_agent(agent: AgentArgs, policy: str | None, episode_timeout: float | None) -> None:
    """Sees that an agent can play with a run's other settings.

    Args:
        agent: Who plays.
        policy: Name of the model that plays.
        episode_timeout: Seconds after which an episode is ended without a grade. None: never.

    Raises:
        EnvironmentLoadError: It cannot.
    """
    if policy == "oracle":
        raise EnvironmentLoadError(
            "environment.args.agent: policy.kind is `oracle`, which knows the tools of the environment's own "
            "loop only, and an agent has its own; give another policy, or leave out environment.args.agent"
        )
    limits = agent.limits
    longest = limits.seconds + limits.grace + _ENDING
    if episode_timeout is not None and longest >= episode_timeout:
        raise EnvironmentLoadError(
            f"environment.args.agent.limits.seconds: {limits.seconds:g} lets an agent and its grading take "
            f"up to {longest:g} s, which must be less than episode.timeout, {episode_timeout:g}: it ends an "
            "episode without a grade"
        )


def _ended_by(state: vf.State) -> str | None:
    end = cast("AgentEnd | None", state.get("agent_end"))
    return None if end is None else end.ended_by


def _instruction(state: vf.State) -> str:
    """The task as the agent is told it."""
    return f"{task_of(state).card.instruction.strip()}\n\n{_NOTE}"
