"""A taskset whose toolset runs in a container of its own: the task's, or one that all tasks name."""

import verifiers.v1 as vf


class Count(vf.State):
    count: int = 0


class Counting(vf.Toolset[vf.ToolsetConfig, Count]):
    """Is served by a module of its image's."""

    __module__ = "counting_server"
    RUNTIME_PYTHON = "/opt/harness/chat-mcp-1/bin/python"


class CountingConfig(vf.TaskConfig):
    image: str = ""
    by_task: bool = True


def make_toolset(config):
    runtime = {"type": "docker", **({"image": config.image} if config.image else {})}
    return Counting(vf.ToolsetConfig.model_validate({"runtime": runtime}))


class CountingTask(vf.Task[vf.TaskData, Count, CountingConfig]):
    @classmethod
    def toolsets(cls, config):
        return [make_toolset(config)] if config.by_task else []

    @vf.reward
    async def counted(self, trace: vf.Trace) -> float:
        return float(trace.state.count)  # pyright: ignore[reportAttributeAccessIssue]


class CountingTasksConfig(vf.TasksetConfig):
    task: CountingConfig = CountingConfig()


class CountingTasks(vf.Taskset[CountingTask, CountingTasksConfig]):  # pyright: ignore[reportInvalidTypeArguments]
    @classmethod
    def toolsets(cls, config):
        return [] if config.task.by_task else [make_toolset(config.task)]

    def load(self):
        for number in range(2):
            yield CountingTask(vf.TaskData(idx=number, prompt="Count."), self.config.task)


__all__ = ["CountingTasks"]
