"""Model calls put to the policy, each a step of the episode."""

import asyncio
import json
import time
from typing import Any

import verifiers as vf
from verifiers.legacy.utils.response_utils import parse_response_message

from workers.environments import tracing
from workers.environments.sendable import replace_unsendable, replace_unsendable_message
from workers.environments.tracing import EpisodeTrace, Turn
from workers.errors import PolicyRefusal, StaleEpisode
from workers.gateway.branches import Branches, Place, Step
from workers.gateway.calls import ModelAnswer, ModelRequest, has_pictures
from workers.gateway.errors import GatewayError
from workers.gateway.limits import LimitWatch
from workers.policy.endpoint import check_version
from workers.policy.refusals import is_about_the_request

_ANSWERS_WITHIN = 30.0
"""Seconds in which a policy that has failed at a call must answer another one, or it has failed itself."""
_TOKENS = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "completion_logprobs"}
"""What of a policy's answer is kept of its tokens."""


class CallRecorder:
    """Puts an agent's model calls to the policy, and their answers on record.

    Args:
        state: verifiers' state of the episode; steps are added to its trajectory.
        trace: Our notes on it.
        agent: Who calls, as steps name it.
        limits: How much it may ask for.
    """

    def __init__(self, state: Any, trace: EpisodeTrace, agent: str, limits: LimitWatch) -> None:
        self._state = state
        self._trace = trace
        self._agent = agent
        self.limits = limits
        self.branches = Branches()
        self.failure: vf.Error | None = None
        """What the policy failed with: no answer of the agent's can mend it."""
        self.refusal: GatewayError | None = None
        """What the policy refused last."""
        self.failed = asyncio.Event()
        self._in_flight = 0
        self._busy_since = 0.0
        self._last_change = time.monotonic()

    @property
    def model(self) -> str:
        """The policy's name."""
        return str(self._state["model"])

    @property
    def _is_exact(self) -> bool:
        return bool(getattr(self._state["client"], "is_exact", False))  # the oracle has no tokens

    def start(self) -> None:
        """Says that the agent begins now."""
        self.limits.began = self._last_change = time.monotonic()

    async def ask(self, request: ModelRequest, dialect: str) -> ModelAnswer:
        """Puts one call to the policy, and waits for as long as its requests may take.

        Raises:
            GatewayError: There is no answer, for the agent to read why.
        """
        self.limits.admit()
        place: Place | None = None
        try:
            messages: list[Any] = replace_unsendable(request.messages)
            tools = [] if request.sampling.get("tool_choice") == "none" else request.tools
            place = self.branches.place(messages, tools)
            return await self._answer(request, place, tools, dialect)
        except BaseException:
            self.limits.take_back()
            if place is not None:
                self.branches.release(place)
            raise

    async def _answer(
        self, request: ModelRequest, place: Place, tools: list[vf.Tool], dialect: str
    ) -> ModelAnswer:
        trace = self._trace
        tracing.current_trace.set(trace)  # of this call's own task
        newest = trace.newest_version() if trace.newest_version is not None else None
        if newest is not None:
            trace.policy_version = max(newest, trace.policy_version or 0)
        offered = trace.offer(tools)
        sampling, asked = self._sampling(request, bool(tools))
        began = self._begin()
        try:
            response = await self._response(place, tools, sampling)
        finally:
            self._end(began)
        response.message = replace_unsendable_message(response.message)
        self._check_version()
        step = await self._settle(place, response)
        usage = response.usage
        answer = ModelAnswer.of(response)
        self.limits.note(usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)
        trace.turns.append(
            Turn(
                policy_version=trace.policy_version,
                policy_seconds=time.monotonic() - began,
                tools=offered,
                agent=self._agent,
                branch=step.branch.number,
                parent_step=step.parent.index if step.parent is not None else None,
                dialect=dialect,
                asked=json.dumps(asked) if asked else None,
            )
        )
        return answer

    async def _response(self, place: Place, tools: list[vf.Tool], sampling: dict[str, Any]) -> Any:
        """The policy's answer to a call.

        Code in the sandbox can ask for anything, and must not get its episode played again by asking for what
        the policy's server breaks at. So where a call fails and the policy answers another one, it is put
        once more, and then refused.

        Raises:
            GatewayError: There is none.
        """
        try:
            return await self._put(place, tools, sampling)
        except vf.Error as error:
            await self._check_whose(error)
            if isinstance(error, PolicyRefusal):
                raise self._refused("refused", error) from error
        if place.lineage and self._is_exact:
            self.branches.begin_branch(place)  # it may be that it can't go on exactly
        try:
            return await self._put(place, tools, sampling)
        except vf.Error as error:
            await self._check_whose(error)
            raise self._refused("refused", error) from error

    async def _check_whose(self, error: vf.Error) -> None:
        """Sees whose a failed call is.

        Raises:
            GatewayError: It is clearly the request's, or the policy's; with that, the episode has failed.
        """
        if isinstance(error, vf.OverlongPromptError):
            raise self._refused("overlong", error) from error
        if is_about_the_request(error.__cause__):
            raise self._refused("refused", error) from error
        if isinstance(error, StaleEpisode) or not await self._answers_others():
            raise self._fail(error) from error

    async def _put(self, place: Place, tools: list[vf.Tool], sampling: dict[str, Any]) -> Any:
        return await self._state["client"].get_response(
            prompt=place.messages,
            model=self._state["model"],
            tools=tools or None,
            sampling_args=sampling,
            state={**self._state, "trajectory": place.lineage},
        )

    async def _answers_others(self) -> bool:
        """Whether the policy answers a call that nobody in the sandbox has worded; it is on no record."""
        token = tracing.current_trace.set(None)
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                await self._state["client"].get_response(
                    prompt=[vf.UserMessage(content="Hello.")],
                    model=self._state["model"],
                    tools=None,
                    sampling_args={**(self._state["sampling_args"] or {}), "max_tokens": 1},
                    state={**self._state, "trajectory": []},
                )
        except (vf.Error, TimeoutError):
            return False
        finally:
            tracing.current_trace.reset(token)
        return True

    async def _settle(self, place: Place, response: Any) -> Step:
        completion = await parse_response_message(response)
        tokens = response.message.tokens
        cut = bool(response.message.is_truncated) or response.message.finish_reason == "length"
        made: dict[str, Any] = {
            "prompt": place.messages,
            "completion": completion,
            "response": response,
            "tokens": None if tokens is None else tokens.model_dump(include=_TOKENS),
            "reward": None,
            "advantage": None,
            "is_truncated": cut,
            "trajectory_id": self._state["trajectory_id"],
            "extras": {},
        }
        self._state["trajectory"].append(made)
        return self.branches.settle(place, completion, made)

    def _sampling(self, request: ModelRequest, has_tools: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """How the run has it sampled, with what an agent may say besides; and what of that is the agent's.

        Raises:
            GatewayError: The agent asks for what this policy cannot be held to, or cannot read.
        """
        run = dict(self._state["sampling_args"] or {})
        sampling = self._as_asked(request, has_tools, dict(run))
        return sampling, {name: value for name, value in sampling.items() if run.get(name) != value}

    def _as_asked(self, request: ModelRequest, has_tools: bool, sampling: dict[str, Any]) -> dict[str, Any]:
        asked = request.sampling
        choice = asked.get("tool_choice")
        is_forced = has_tools and choice not in (None, "auto", "none")
        most = [each["max_tokens"] for each in (sampling, asked) if each.get("max_tokens") is not None]
        if most:
            sampling["max_tokens"] = min(most)
        if self._is_exact:
            if has_pictures(request.messages):
                raise GatewayError(
                    "invalid", "images: this policy samples exact tokens and reads text only; leave them out"
                )
            for name, is_asked in (
                ("tool_choice", is_forced),
                ("response_format", asked.get("response_format") is not None),
            ):
                if is_asked:
                    raise GatewayError(
                        "invalid", f"{name}: this policy samples exact tokens and cannot be held to {name}"
                    )
            return sampling
        if is_forced:
            sampling.setdefault("tool_choice", choice)
        if asked.get("parallel_tool_calls") is False and has_tools:
            sampling["parallel_tool_calls"] = False
        for name in ("stop", "response_format"):
            if asked.get(name) is not None:
                sampling.setdefault(name, asked[name])
        return sampling

    def _refused(self, kind: Any, error: Exception) -> GatewayError:
        self.refusal = GatewayError(kind, str(error))
        self.refusal.__cause__ = error
        return self.refusal

    def _fail(self, error: vf.Error) -> GatewayError:
        if self.failure is None:
            self.failure = error
            self.failed.set()
        return GatewayError("unavailable", str(error))

    def _check_version(self) -> None:
        try:
            check_version(self._trace)
        except StaleEpisode as error:
            raise self._fail(error) from error

    def _begin(self) -> float:
        """Notes that the policy thinks; the time until now was the agent's."""
        now = time.monotonic()
        if self._in_flight == 0:
            self._note_agent_time(now)
            self._busy_since = now
        self._in_flight += 1
        return now

    def _end(self, began: float) -> None:
        """Notes that a call has ended; time in which several wait counts once."""
        now = time.monotonic()
        self._in_flight -= 1
        if self._in_flight == 0:
            seconds = self._trace.seconds
            seconds["policy"] = seconds.get("policy", 0.0) + now - self._busy_since
            self._last_change = now

    def _note_agent_time(self, now: float) -> None:
        seconds, turns = self._trace.seconds, self._trace.turns
        passed = max(0.0, now - self._last_change)
        seconds["tools"] = seconds.get("tools", 0.0) + passed
        if turns:
            turns[-1].tools_seconds += passed

    def close(self) -> None:
        """Notes the time that the agent took after its last call."""
        if self._in_flight == 0:
            self._note_agent_time(time.monotonic())
