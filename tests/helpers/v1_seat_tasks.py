"""A taskset whose work other agents look at: it leaves artifacts; a file of its own, for any Python."""

from importlib.metadata import version

import verifiers.v1 as vf


class WrittenData(vf.TaskData):
    word: str = "tatami"


class WrittenTask(vf.Task[WrittenData]):
    @property
    def key(self) -> str:
        return "written"

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        await runtime.write("word.txt", f"{self.data.word}\n".encode())

    async def finalize(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        trace.info["left"] = (await runtime.run(["cat", "out.txt"], {})).stdout
        if version("verifiers") < "0.4":  # from then on, verifiers does that
            trace.state.artifacts = await vf.collect(runtime, self.data.artifacts)

    @vf.reward
    async def told(self, trace: vf.Trace) -> float:
        return float(self.data.word in (trace.last_reply or ""))

    @vf.metric
    async def written(self, runtime: vf.Runtime) -> float:
        return float((await runtime.run(["cat", "out.txt"], {})).stdout.strip() == self.data.word)


class Written(vf.Taskset[WrittenTask]):
    def load(self):
        yield WrittenTask(
            WrittenData(
                idx=0,
                prompt="Write the word of word.txt to out.txt, and say it",
                artifacts=[vf.Artifact(source="out.txt")],
            ),
            self.config.task,
        )


__all__ = ["Written"]
