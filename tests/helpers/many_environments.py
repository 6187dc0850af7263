"""Environments that between them use every hook and rubric class of verifiers 0.3.1, noting their calls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import verifiers as vf
from datasets import Dataset
from openai import AsyncOpenAI
from verifiers.legacy.utils.data_utils import extract_boxed_answer

CALLS: list[str] = []
"""What was called, in order."""
CASES: dict[str, Callable[..., vf.Environment]] = {}
Case = Callable[..., vf.Environment]


def note(*what: Any) -> None:
    CALLS.append(" ".join(map(str, what)))


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def load_environment(name: str, judge_url: str = "") -> vf.Environment:
    return CASES[name](judge_url) if name.startswith("judge") else CASES[name]()


def tasks(*questions: str, **columns: Any) -> Dataset:
    rows = [{"question": q, "answer": "4", **columns} for q in questions or ("2+2?",)]
    return Dataset.from_list(rows)


def right(completion: Any, answer: str, **_: Any) -> float:
    note("right")
    return float(answer in str(completion[-1].content))


async def long(completion: Any) -> int:
    note("long")
    return len(str(completion[-1].content))


def relative(completions: Any, **_: Any) -> list[float]:
    note("relative", len(completions))
    lengths = [len(str(c[-1].content)) for c in completions]
    return [n - sum(lengths) / len(lengths) for n in lengths]


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: One.
        b: Other.
    """
    note("add", a, b)
    return a + b


def fail(a: int) -> int:
    """Fail.

    Args:
        a: One.
    """
    note("fail", a)
    raise LookupError(f"nothing is called {a}")


class Noting(vf.Rubric):
    @vf.cleanup(priority=5)
    async def early(self, state: Any) -> None:
        note("rubric cleanup early", state.get("reward"))

    @vf.cleanup
    async def late(self, state: Any, answer: str) -> None:
        note("rubric cleanup late", answer)

    @vf.teardown
    async def end(self) -> None:
        note("rubric teardown")


class Hooked(vf.MultiTurnEnv):
    async def setup_state(self, state: Any) -> Any:
        note("setup_state")
        state["n"] = 0
        return await super().setup_state(state)

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        note("env_response", len(messages))
        state["n"] += 1
        return [{"role": "user", "content": f"go on {state['n']}"}]

    @vf.stop(priority=10)
    async def enough(self, state: Any) -> bool:
        note("stop?")
        return state["n"] >= 1 and len(state["trajectory"]) >= 2

    @vf.cleanup(priority=1)
    async def first(self, state: Any) -> None:
        note("env cleanup first", len(state["completion"]))

    @vf.cleanup
    async def second(self, state: Any) -> None:
        note("env cleanup second")

    @vf.teardown(priority=3)
    async def end(self) -> None:
        note("env teardown")


@case
def single_turn() -> vf.Environment:
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=vf.Rubric(funcs=[right]))


@case
def weights_and_metrics() -> vf.Environment:
    rubric = vf.Rubric(funcs=[right, long], weights=[0.5, 0.25])
    rubric.add_metric(lambda completion: 3, weight=0.0)
    rubric.add_reward_func(long, weight=0.125)
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=rubric)


@case
def class_objects() -> vf.Environment:
    def known(table: Any, prompt: Any, info: Any, state: Any, task: Any) -> float:
        note("known", sorted(table), len(prompt), info, state["answer"])
        return table[state["answer"]]

    rubric = vf.Rubric(funcs=[known])
    rubric.add_class_object("table", {"4": 0.75})
    return vf.SingleTurnEnv(eval_dataset=tasks(info={"a": 1}), rubric=rubric)


@case
def score_objects() -> vf.Environment:
    def provided(extra: Any) -> float:
        note("provided", extra)
        return float(extra)

    rubric = vf.Rubric(funcs=[provided])
    rubric.add_score_object_provider(lambda state: {"extra": len(state["trajectory"])})
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=rubric)


@case
def xml_parser() -> vf.Environment:
    parser = vf.XMLParser(["answer"])

    def parsed(parser: Any, completion: Any, answer: str) -> float:
        return float(parser.parse_answer(completion) == answer)

    rubric = vf.Rubric(funcs=[parsed, parser.get_format_reward_func()], weights=[1.0, 0.5], parser=parser)
    return vf.SingleTurnEnv(eval_dataset=tasks(), parser=parser, rubric=rubric)


@case
def think_parser() -> vf.Environment:
    parser = vf.ThinkParser()
    rubric = vf.Rubric(funcs=[parser.get_format_reward_func(), right], parser=parser)
    return vf.SingleTurnEnv(eval_dataset=tasks(), parser=parser, rubric=rubric, system_prompt="Think.")


@case
def rubric_group() -> vf.Environment:
    rubric = vf.RubricGroup([Noting(funcs=[right]), vf.Rubric(funcs=[right, long], weights=[2.0, 0.1])])
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=rubric)


@case
def nested_rubric_groups() -> vf.Environment:
    inner = vf.RubricGroup([Noting(funcs=[long]), vf.Rubric(funcs=[right])])
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=vf.RubricGroup([inner, Noting(funcs=[right])]))


@case
def own_score_rollout() -> vf.Environment:
    class Own(Noting):
        async def score_rollout(self, state: Any) -> None:
            note("score_rollout")
            state["reward"] = np.float32(0.5)
            state["metrics"] = {"own": np.int64(3)}

    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=Own())


@case
def own_score_rollout_beside_the_usual() -> vf.Environment:
    class Own(Noting):
        async def score_rollout(self, state: Any) -> None:
            await super().score_rollout(state)
            note("then", state["reward"])
            state["reward"] *= 2
            state["metrics"]["doubled"] = True

    own = vf.RubricGroup([Own(funcs=[right]), vf.Rubric(funcs=[long])])
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=own)


@case
def own_rubric_with_one_inside() -> vf.Environment:
    class Outer(vf.Rubric):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Noting(funcs=[right])

        async def score_rollout(self, state: Any) -> None:
            note("outer")
            await self.inner.score_rollout(state)

        async def cleanup(self, state: Any) -> None:
            await self.inner.cleanup(state)
            await super().cleanup(state)

    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=Outer())


@case
def group_own_score_group() -> vf.Environment:
    class Own(Noting):
        async def score_group(self, states: Any) -> None:
            note("score_group", len(states))
            for rank, state in enumerate(states):
                state["reward"], state["metrics"] = float(rank), {"rank": rank}

    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=Own())


@case
def group_function() -> vf.Environment:
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=Noting(funcs=[relative]))


@case
def group_function_beside_others() -> vf.Environment:
    rubric = vf.RubricGroup([vf.Rubric(funcs=[relative, right], weights=[0.5, 1]), Noting(funcs=[long])])
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=rubric)


@case
def group_function_of_numpy() -> vf.Environment:
    def ranks(states: Any) -> Any:
        note("ranks", len(states))
        return np.arange(len(states), dtype=np.float32)

    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=vf.Rubric(funcs=[ranks, right]))


@case
def judge(url: str) -> vf.Environment:
    async def judged(judge: Any, prompt: Any, completion: Any, answer: Any, state: Any) -> float:
        said = await judge(prompt, completion, answer, state)
        note("judged", said)
        return float("yes" in said)

    rubric = vf.JudgeRubric(judge_client=AsyncOpenAI(base_url=url, api_key="none"), judge_model="judge")
    rubric.add_reward_func(judged)
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=rubric)


@case
def math_rubric() -> vf.Environment:
    return vf.SingleTurnEnv(eval_dataset=tasks(), rubric=vf.MathRubric(max_workers=1))


@case
def boxed_answer() -> vf.Environment:
    parser = vf.MaybeThinkParser(extract_fn=extract_boxed_answer)
    return vf.SingleTurnEnv(
        eval_dataset=tasks(), parser=parser, rubric=vf.Rubric(funcs=[right], parser=parser)
    )


@case
def tools() -> vf.Environment:
    return vf.ToolEnv(tools=[add, fail], eval_dataset=tasks(), rubric=Noting(funcs=[right]))


@case
def stateful_tools() -> vf.Environment:
    class Stateful(vf.StatefulToolEnv):
        async def setup_state(self, state: Any) -> Any:
            note("setup_state")
            state["base"] = 40
            return await super().setup_state(state)

        def update_tool_args(self, name: str, args: Any, messages: Any, state: Any, **_: Any) -> Any:
            note("update_tool_args", name, args)
            return {**args, "a": state["base"]}

    env = Stateful(eval_dataset=tasks(), rubric=vf.Rubric(funcs=[right]))
    env.add_tool(add, args_to_skip=["a"])
    return env


@case
def every_hook() -> vf.Environment:
    return Hooked(eval_dataset=tasks(), rubric=Noting(funcs=[right]), max_turns=5)


@case
def last_word_of_the_environment() -> vf.Environment:
    class LastWord(Hooked):
        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            note("last word")
            state["final_env_response"] = [{"role": "user", "content": "4, thank you"}]
            return []

    return LastWord(eval_dataset=tasks(), rubric=Noting(funcs=[right]))


@case
def own_prompts_and_completion() -> vf.Environment:
    class Forgetful(Hooked):
        async def get_prompt_messages(self, state: Any) -> Any:
            note("get_prompt_messages")
            if not state["trajectory"]:
                return state["prompt"]
            return [*state["prompt"], *await self.env_response(state["prompt"], state)]

        async def render_completion(self, state: Any) -> None:
            note("render_completion")
            state["completion"] = [m for step in state["trajectory"] for m in step["completion"]]

    return Forgetful(eval_dataset=tasks(), rubric=Noting(funcs=[right]))


@case
def step_rewards() -> vf.Environment:
    class Rewarding(Hooked):
        async def add_trajectory_step(self, state: Any, step: Any) -> None:
            note("add_trajectory_step")
            step["reward"] = np.float64(0.5)
            await super().add_trajectory_step(state, step)

    return Rewarding(eval_dataset=tasks(), rubric=Noting(funcs=[right]))


@case
def no_scoring() -> vf.Environment:
    return Hooked(eval_dataset=tasks(), rubric=Noting(funcs=[right]), score_rollouts=False)


@case
def few_shot() -> vf.Environment:
    shots: Any = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    return vf.SingleTurnEnv(
        eval_dataset=tasks(), rubric=vf.Rubric(funcs=[right]), few_shot=shots, system_prompt="Sum."
    )


@case
def turns_run_out() -> vf.Environment:
    return Hooked(eval_dataset=tasks(), rubric=Noting(funcs=[right]), max_turns=1)


@case
def failed_in_the_middle() -> vf.Environment:
    class Failing(Hooked):
        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            note("failing")
            raise vf.ToolError("its backend is gone")

    return Failing(eval_dataset=tasks(), rubric=Noting(funcs=[right]))


@case
def failed_of_a_tool() -> vf.Environment:
    return vf.ToolEnv(
        tools=[fail], stop_errors=[LookupError], eval_dataset=tasks(), rubric=Noting(funcs=[right])
    )


@case
def failed_in_setup() -> vf.Environment:
    class Failing(Hooked):
        async def setup_state(self, state: Any) -> Any:
            note("setup_state")
            raise vf.ToolError("there is no such task")

    return Failing(eval_dataset=tasks(), rubric=Noting(funcs=[right]))


def _members() -> list[vf.Environment]:
    return [
        vf.SingleTurnEnv(eval_dataset=tasks(), rubric=Noting(funcs=[right])),
        vf.ToolEnv(tools=[add, fail], eval_dataset=tasks("3+1?"), rubric=vf.Rubric(funcs=[long])),
    ]


@case
def group_of_environments() -> vf.Environment:
    return vf.EnvGroup(_members(), env_names=["one", "two"])


@case
def nested_groups_of_environments() -> vf.Environment:
    inner = vf.EnvGroup(_members(), env_names=["one", "two"])
    other = vf.EnvGroup([vf.SingleTurnEnv(eval_dataset=tasks("5-1?"), rubric=vf.Rubric(funcs=[right]))])
    return vf.EnvGroup([other, inner], env_names=["other", "inner"])
