"""Environments that hold, raise and return what real ones do, each by the name of its kind."""

import asyncio
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import verifiers as vf
from datasets import Dataset
from openai import AsyncOpenAI

CASES: dict[str, Callable[..., vf.Environment]] = {}


def case(make: Callable[..., vf.Environment]) -> Callable[..., vf.Environment]:
    CASES[make.__name__] = make
    return make


def load_environment(kind: str, **arguments: Any) -> vf.Environment:
    return CASES[kind](**arguments)


def right(completion: Any, answer: str, **_: Any) -> float:
    return float(answer in str(completion[-1].content))


def tool_results(completion: Any, **_: Any) -> float:
    return float(sum(message.role == "tool" for message in completion))


def look(where: str) -> str:
    """Look.

    Args:
        where: Where.
    """
    return f"seen {where}"


def numbered(count: int, **columns: Any) -> Dataset:
    return Dataset.from_list([{"question": f"task {i}", "answer": "", **columns} for i in range(count)])


def single(rows: Dataset | None = None, *funcs: Any, **options: Any) -> vf.Environment:
    rubric = options.pop("rubric", None) or vf.Rubric(funcs=[*funcs] or [right])
    return vf.SingleTurnEnv(eval_dataset=rows or numbered(1), rubric=rubric, **options)


@case
def own_score_rollout() -> vf.Environment:
    class Own(vf.Rubric):
        async def score_rollout(self, state: Any) -> None:
            state["reward"] = 0.75
            state["metrics"] = {"own": np.float32(0.5)}

    return single(rubric=Own())


@case
def group_of_numpy() -> vf.Environment:
    def relative(completions: Any, **_: Any) -> Any:
        lengths = np.array([len(str(c[-1].content)) for c in completions], dtype=np.float32)
        return lengths - lengths.mean()

    return single(None, relative)


@case
def labels_of_other_types() -> vf.Environment:
    info = {"suite": 3, "attack": True, "user_task": 0, "difficulty": 1.5}
    return single(numbered(2, info=info))


@case
def cleans_up(notes: str) -> vf.Environment:
    class Cleaning(vf.Rubric):
        @vf.cleanup
        def note(self, state: Any) -> None:
            with Path(notes).open("a") as file:
                file.write(f"{state['example_id']} ")

    class Failing(vf.ToolEnv):
        async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
            if state["example_id"] == 1:
                raise vf.ToolError("the tool's own server is gone")
            return await super().env_response(messages, state, **kwargs)

    return Failing(tools=[look], eval_dataset=numbered(2), rubric=Cleaning(funcs=[tool_results]))


@case
def infrastructure_fails_once() -> vf.Environment:
    class Failing(vf.SingleTurnEnv):
        tries = 0

        async def setup_state(self, state: Any) -> Any:
            Failing.tries += 1
            if Failing.tries == 1:
                raise vf.InfraError("the service that starts sandboxes answered 503")
            return state

    return Failing(eval_dataset=numbered(1), rubric=vf.Rubric(funcs=[right]))


@case
def tools(tasks: int = 1) -> vf.Environment:
    rubric = vf.Rubric(funcs=[tool_results])
    return vf.ToolEnv(tools=[look], eval_dataset=numbered(tasks), rubric=rubric, max_turns=4)


@case
def one_turn(tasks: int = 1) -> vf.Environment:
    return single(numbered(tasks))


@case
def tools_of_each_row() -> vf.Environment:
    def tool(name: str, **properties: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return {"name": name, "description": name, "parameters": schema}

    class Offering(vf.MultiTurnEnv):
        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            return []

    rows = [
        {
            "question": "weather?",
            "answer": "",
            "info": {"tool_defs": [tool("weather", city={"type": "string"})]},
        },
        {
            "question": "sum?",
            "answer": "",
            "info": {"tool_defs": [tool("add", a={"type": "integer", "minimum": 0})]},
        },
    ]
    return Offering(eval_dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[right]), max_turns=1)


@case
def judged(judge_url: str) -> vf.Environment:
    async def yes(judge: Any, prompt: Any, completion: Any, answer: str, state: Any, **_: Any) -> float:
        return float("yes" in (await judge(prompt, completion, answer, state)).lower())

    client = AsyncOpenAI(base_url=judge_url, api_key="none", max_retries=0)
    rubric = vf.JudgeRubric(judge_client=client, judge_model="judge")
    rubric.add_reward_func(yes)
    return single(rubric=rubric)


@case
def attribute_called_toolset() -> vf.Environment:
    class Own(vf.SingleTurnEnv):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.toolset = "web"

    return Own(eval_dataset=numbered(1), rubric=vf.Rubric(funcs=[right]))


@case
def few_shot_calls() -> vf.Environment:
    def prompt(number: int) -> list[dict[str, Any]]:
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Oslo"}},
        }
        if number == 2:  # whose keys Arrow gives the others, too
            call["function"] = {"name": "add", "arguments": {"a": 1, "more": {"b": [None, 2]}}}
        return [
            {"role": "user", "content": "Weather?", "tool_calls": None, "tool_call_id": None},
            {"role": "assistant", "content": None, "tool_calls": [call], "tool_call_id": None},
            {"role": "tool", "content": "cold", "tool_calls": None, "tool_call_id": "c1"},
            {"role": "user", "content": f"task {number}", "tool_calls": None, "tool_call_id": None},
        ]

    return single(Dataset.from_list([{"prompt": prompt(i), "answer": ""} for i in range(3)]))


@case
def grader_that_catches_all() -> vf.Environment:
    class Own(vf.Rubric):
        async def score_rollout(self, state: Any) -> None:
            state["reward"], state["metrics"] = 0.0, {}
            try:
                await asyncio.sleep(60)
                state["reward"] = 1.0
            except:  # noqa: E722 - as graders do
                return

    return single(rubric=Own())


@case
def odd_texts() -> vf.Environment:
    texts = ["nul \x00", "half \ud83d", "\U0001f600 \u2028 \ufeff \ufffe", "bel \x07 esc \x1b[31m"]

    def read(i: int) -> str:
        """Read.

        Args:
            i: Which.
        """
        return texts[i]

    rubric = vf.Rubric(funcs=[tool_results])
    return vf.ToolEnv(tools=[read], eval_dataset=numbered(len(texts)), rubric=rubric, max_turns=3)


@case
def tells_its_key(how: str) -> vf.Environment:
    def graded(state: Any, **_: Any) -> float:
        key = os.environ["SOME_JUDGE_KEY"]
        if how == "error":
            raise ValueError(f"the judge refuses the key {key}")
        if how == "printed":
            print(f"asks with {key}")
        return 1.0

    return single(None, graded)


def is_first(file: str) -> bool:
    """Whether this is the first attempt, each of which may be in a process of its own."""
    is_it = not Path(file).exists()
    Path(file).touch()
    return is_it


@case
def of_a_whole_run(notes: str) -> vf.Environment:
    """One turn per task; what its code does, the task says."""

    def graded(prompt: Any, **_: Any) -> float:
        match str(prompt[-1].content):
            case "hang":
                re.match(r"(a+)+$", "a" * 40 + "!")
            case "key":
                return float(os.environ.get("SOME_JUDGE_KEY", "") != "")
            case "shout":
                raise ValueError(f"the judge refuses the key {os.environ.get('SOME_JUDGE_KEY')}")
            case "slow":
                time.sleep(0.05)
            case _:
                pass
        return 1.0

    class Failing(vf.SingleTurnEnv):
        async def setup_state(self, state: Any) -> Any:
            if str(state["prompt"][-1].content) == "infrastructure" and is_first(notes):
                raise vf.SandboxError("the service that starts sandboxes answered 503")
            return state

    what = ["hang", "key", "shout", "infrastructure", *["slow"] * 8]
    rows = [
        {"question": each, "answer": "", "info": {"suite": number, "attack": True}}
        for number, each in enumerate(what)
    ]
    return Failing(eval_dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[graded]))
