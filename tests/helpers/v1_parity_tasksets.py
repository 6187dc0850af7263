"""Tasksets of verifiers' v1 API that between them use every hook, for both runners and any Python.

A module may export one taskset only: `write_taskset` writes a copy of this file with one that is exported.
"""

# pyright: reportAttributeAccessIssue=false, reportInvalidTypeArguments=false

import asyncio
from pathlib import Path

import verifiers.v1 as vf
from pydantic import Field


def write_taskset(folder: Path, name: str) -> Path:
    """A module in a folder that exports one of the tasksets below."""
    file = folder / f"parity_{name.lower()}.py"
    file.write_text(Path(__file__).read_text().replace('__all__ = ["Plain"]', f'__all__ = ["{name}"]'))
    return file


class Data(vf.TaskData):
    answer: str = "ok"


def tasks_of(taskset, kind, *prompts, **fields):
    for number, prompt in enumerate(prompts):
        yield kind(Data(idx=number, prompt=prompt, **fields), taskset.config.task)


class Answered(vf.Task[Data]):
    """What most have in common: the answer is right, or it is not."""

    @vf.reward
    async def correct(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)


class Plain(vf.Taskset[Answered]):
    def load(self):
        yield from tasks_of(self, Answered, "What is it?", "And that?", answer="ok")


class System(vf.Taskset[Answered]):
    def load(self):
        yield from tasks_of(self, Answered, "Be it.", system_prompt="You are brief.")


class Messages(vf.Taskset[Answered]):
    def load(self):
        talk = [
            vf.UserMessage(content="Hello."),
            vf.AssistantMessage(content="Good day."),
            vf.UserMessage(content="Now say ok."),
        ]
        yield from tasks_of(self, Answered, talk)


class WeighedTask(vf.Task[Data]):
    async def setup(self, trace: vf.Trace) -> None:
        trace.info["seen"] = ["setup"]

    async def finalize(self, trace: vf.Trace) -> None:
        trace.info["seen"].append("finalize")

    @vf.metric(priority=1)
    async def steps(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)

    @vf.metric
    async def hook_counts(self, trace: vf.Trace) -> dict[str, float]:
        return {"setups": trace.info["seen"].count("setup"), "finals": trace.info["seen"].count("finalize")}

    @vf.reward(weight=2.0)
    async def correct(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.5)
    async def parts(self, trace: vf.Trace) -> dict[str, float]:
        return {"brief": 0.5, "kind": 0.25}


class Weighed(vf.Taskset[WeighedTask]):
    def load(self):
        yield from tasks_of(self, WeighedTask, "Weigh it.", "Weigh that.")


class StoppedTask(Answered):
    @vf.stop
    async def has_said_enough(self, trace: vf.Trace) -> bool:
        return trace.last_reply == "enough"


class Stopped(vf.Taskset[StoppedTask]):
    def load(self):
        yield from tasks_of(self, StoppedTask, "Talk.", answer="enough")


class Limited(vf.Taskset[Answered]):
    def load(self):
        yield from tasks_of(self, Answered, "Look, and look again.")


class SumTools(vf.Toolset[vf.ToolsetConfig]):
    """Adds."""

    TOOL_PREFIX = "sums"

    @vf.tool
    async def add(self, a: int, b: int = 1) -> int:
        """Adds two numbers."""
        return a + b

    @vf.tool(name="split")
    def cut(self, text: str) -> list[str]:
        """Cuts a text at its spaces."""
        return text.split()

    @vf.tool
    async def fail(self, why: str) -> str:
        """Fails."""
        raise ValueError(why)


class ToolTask(Answered):
    @classmethod
    def toolsets(cls, config):
        return [SumTools(vf.ToolsetConfig())]


class Tools(vf.Taskset[ToolTask]):
    def load(self):
        yield from tasks_of(self, ToolTask, "Add 1 and 2.", answer="3")


class Count(vf.State):
    count: int = 0
    notes: list[str] = Field(default_factory=list)


class CounterTools(vf.Toolset[vf.ToolsetConfig, Count]):
    """Counts, in the rollout's state."""

    TOOL_PREFIX = None

    async def setup(self) -> None:
        self.begun = "begun"

    async def setup_task(self, task) -> None:
        self.task = task

    @vf.tool
    async def count(self, by: int) -> str:
        """Counts on."""
        self.state.count += by
        self.state.notes.append(f"{self.begun} {self.task.answer}")
        return f"{self.state.count} of {self.task.prompt}"


class CounterTask(vf.Task[Data, Count]):
    @classmethod
    def toolsets(cls, config):
        return [CounterTools(vf.ToolsetConfig())]

    @vf.stop
    async def is_full(self, trace: vf.Trace) -> bool:
        return trace.state.count >= 5

    @vf.reward
    async def counted(self, trace: vf.Trace) -> float:
        return float(trace.state.count)

    @vf.metric
    async def noted(self, trace: vf.Trace) -> float:
        return float(trace.state.notes.count("begun ok"))


class Counted(vf.Taskset[CounterTask]):
    def load(self):
        yield from tasks_of(self, CounterTask, "Count.", "Count on.")


class SharedTools(vf.Toolset[vf.SharedToolsetConfig, Count]):
    """One for all episodes, with a state for each."""

    async def setup(self) -> None:
        self.calls = 0

    @vf.tool
    async def remember(self, what: str) -> str:
        """Keeps a note."""
        self.calls += 1
        self.state.notes.append(what)
        return ", ".join(self.state.notes)


class SharedTask(vf.Task[Data, Count]):
    @vf.reward
    async def kept(self, trace: vf.Trace) -> float:
        return float(len(trace.state.notes))


class Shared(vf.Taskset[SharedTask]):
    @classmethod
    def toolsets(cls, config):
        return [SharedTools(vf.SharedToolsetConfig())]

    def load(self):
        yield from tasks_of(self, SharedTask, "Remember a.", "Remember b.")


class InterceptedTask(ToolTask):
    @vf.intercept
    async def hide_numbers(self, request: vf.Request) -> vf.Request | None:
        last = request.messages[-1]
        if isinstance(last, vf.ToolMessage) and last.content == "3":
            request.messages[-1] = last.model_copy(update={"content": "three"})
            return request
        return None

    @vf.intercept(priority=1)
    async def be_polite(self, response: vf.Response) -> vf.Response | None:
        if response.message.content != "damn":
            return None
        message = response.message.model_copy(update={"content": "three"})
        return response.model_copy(update={"message": message})


class Intercepted(vf.Taskset[InterceptedTask]):
    def load(self):
        yield from tasks_of(self, InterceptedTask, "Add 1 and 2.", answer="three")


class GatedTask(ToolTask):
    @vf.intercept
    async def forbid(self, request: vf.Request) -> vf.Request | None:
        last = request.messages[-1]
        if isinstance(last, vf.ToolMessage) and last.name == "sums_fail":
            request.messages[-1] = last.model_copy(update={"content": "that is not allowed"})
            return request
        return None

    @vf.stop
    async def knows(self, request: vf.Request) -> bool:
        return "stop it" in str(request.messages[-1].content)


class Gated(vf.Taskset[GatedTask]):
    def load(self):
        yield from tasks_of(self, GatedTask, "Fail.", "Add.")


class RemoteConfig(vf.TaskConfig):
    url: str = ""


class RemoteTask(vf.Task[Data, vf.State, RemoteConfig]):
    @classmethod
    def toolsets(cls, config):
        return [SumTools(vf.ToolsetConfig(url=config.url))]


class RemotesConfig(vf.TasksetConfig):
    task: RemoteConfig = RemoteConfig()


class Remote(vf.Taskset[RemoteTask, RemotesConfig]):
    """Its tools are served elsewhere."""

    def load(self):
        yield from tasks_of(self, RemoteTask, "Add 1 and 2.")


class WaitConfig(vf.TaskConfig):
    told: str = ""
    """A file of the worker's side that is told how the tool has ended."""


class WaitToolsConfig(vf.ToolsetConfig):
    told: str = ""


class WaitTools(vf.Toolset[WaitToolsConfig]):
    """Waits for longer than anyone."""

    @vf.tool
    async def wait(self) -> str:
        """Waits."""
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            Path(self.config.told).write_text("broken off")  # noqa: ASYNC240 - it is a few bytes
            raise
        return "done"


class WaitTask(vf.Task[Data, vf.State, WaitConfig]):
    @classmethod
    def toolsets(cls, config):
        return [WaitTools(WaitToolsConfig(told=config.told))]


class WaitsConfig(vf.TasksetConfig):
    task: WaitConfig = WaitConfig()


class Waiting(vf.Taskset[WaitTask, WaitsConfig]):
    def load(self):
        yield from tasks_of(self, WaitTask, "Wait.", timeout=vf.TaskTimeout(agent=15.0))


class Failing(vf.Task[Data]):
    @vf.reward
    async def correct(self, trace: vf.Trace) -> float:
        raise KeyError("no reward today")


class Failed(vf.Taskset[Failing]):
    def load(self):
        yield from tasks_of(self, Failing, "Fail.")


class Judged(vf.Taskset[Answered]):
    """Its config plugs a judge in."""

    def load(self):
        yield from tasks_of(self, Answered, "Judge it.")


class Slow(vf.Task[Data]):
    async def finalize(self, trace: vf.Trace) -> None:
        await asyncio.sleep(30)

    @vf.reward
    async def there(self, trace: vf.Trace) -> float:
        return 1.0


class Timed(vf.Taskset[Slow]):
    def load(self):
        yield from tasks_of(self, Slow, "Wait.", timeout=vf.TaskTimeout(finalize=0.2))


__all__ = ["Plain"]

if __name__ == "__main__":  # as a server of its own, under verifiers' own runner
    toolset = {"Tools": SumTools, "Intercepted": SumTools, "Gated": SumTools, "Counted": CounterTools}
    toolset |= {"Shared": SharedTools, "Remote": SumTools}
    toolset[__all__[0]].run()
