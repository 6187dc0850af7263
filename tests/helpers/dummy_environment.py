"""A verifiers environment on the dummy toolset: a task's row says what happens in its episode.

`info.opening` is what the session is opened with, its `script` what the oracle policy does; `info.setup`,
`info.respond`, `info.clean` and `info.score` say what goes wrong where.
"""

import json
import math
from typing import Any

import verifiers as vf
from datasets import Dataset

from tests.helpers.sandboxes import dummy
from workers.sandbox.base import Session


class DummyEnv(vf.MultiTurnEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(eval_dataset=Dataset.from_list([row()]), **kwargs)
        self.toolset = dummy()

    async def setup_state(self, state: vf.State) -> vf.State:
        if state["info"].get("setup") == "raise":
            raise KeyError("a bug in setup_state")
        opened = await state["sandbox"].open(state["info"].get("opening", {}))
        state["tool_defs"] = [vf.Tool(**tool.model_dump()) for tool in opened.tools if tool.name == "put"]
        return state

    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        session: Session = state["sandbox"]
        match state["info"].get("respond"):
            case "raise":
                raise ZeroDivisionError("a bug in env_response")
            case "raise a verifiers error":
                raise vf.ToolCallError("no such tool")
            case "raise a timeout":
                raise TimeoutError("a server of the environment's does not answer")
            case "wreck":
                state["trajectory"][0]["completion"] = 5
                raise ZeroDivisionError("a bug in env_response")
            case "end":
                state["final_env_response"] = [vf.UserMessage(content="enough")]
        answers: list[Any] = []
        for call in messages[-1].tool_calls or []:
            try:
                text = (await session.call(call.name, json.loads(call.arguments))).text
            except vf.Error as error:
                if state["info"].get("respond") != "swallow":
                    raise
                text = f"something went wrong: {error}"
            answers.append(vf.ToolMessage(content=text, tool_call_id=call.id))
        return answers

    @vf.stop
    async def no_tools_called(self, state: vf.State) -> bool:
        if state["info"].get("respond") == "bad stop" and state["trajectory"]:
            raise LookupError("a bug in a stop condition")
        return bool(state["trajectory"]) and not state["trajectory"][-1]["completion"][-1].tool_calls

    @vf.cleanup
    async def score_session(self, state: vf.State) -> None:
        if state["info"].get("clean") == "raise":
            raise OSError("a bug in a cleanup handler")
        session: Session = state["sandbox"]
        if session.opened is not None and state["error"] is None:
            state["scores"] = (await session.evaluate({"hang": state["info"].get("clean") == "hang"})).metrics
        if state["trajectory"] and state["info"].get("step_reward"):
            state["trajectory"][0]["reward"] = state["info"]["step_reward"]


async def score(state: vf.State) -> Any:
    match state["info"].get("score"):
        case "raise":
            raise ArithmeticError("a bug in a reward function")
        case "nan":
            return math.nan
        case "nothing":
            return None
        case _:
            return state["scores"]["score"]


def above_average(states: list[vf.State]) -> list[float]:
    if any(state["info"].get("score") == "raise for all" for state in states):
        raise ArithmeticError("a bug in a group reward function")
    scores = [state["scores"]["score"] for state in states]
    return [float(score > sum(scores) / len(scores)) for score in scores]


def row(**info: Any) -> dict[str, Any]:
    return {
        "example_id": 0,
        "prompt": [{"role": "user", "content": "go"}],
        "answer": "",
        "info": {"task_id": "dummy", **info},
    }


def load_environment(groups: bool = False, max_turns: int = 5, **kwargs: Any) -> vf.Environment:
    functions: list[Any] = [score, above_average] if groups else [score]
    return DummyEnv(rubric=vf.Rubric(funcs=functions), max_turns=max_turns, **kwargs)
