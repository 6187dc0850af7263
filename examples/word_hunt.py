"""A taskset of verifiers' v1 API whose harness works in a container: find a word, and write it down."""

import random
from collections.abc import Iterator

import verifiers.v1 as vf

WORDS = ("lantern", "harbor", "walnut", "meadow", "copper", "violin", "pebble", "saffron")


class HuntData(vf.TaskData):
    """What a task holds, beside its prompt."""

    answer: str
    """The word."""
    place: str
    """The file that it is in."""


class HuntTask(vf.Task[HuntData]):
    """One word to be found."""

    async def setup(self, runtime: vf.Runtime) -> None:
        """Puts the files into the container's working folder."""
        for number in range(10):
            name = f"notes/{number}.txt"
            text = f"The word is {self.data.answer}.\n" if name == self.data.place else "Nothing is here.\n"
            await runtime.write(name, text.encode())

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Whether the word is where it is said to be, and nowhere else."""
        found = await runtime.run(["grep", "-rl", self.data.answer, "notes"], {})
        return found.stdout.split() == [self.data.place]

    @vf.reward
    async def written(self, runtime: vf.Runtime) -> float:
        """Whether the file that was asked for holds the word, and nothing else."""
        found = await runtime.run(["cat", "answer.txt"], {})
        return float(found.stdout.strip() == self.data.answer)

    @vf.metric
    async def commands(self, trace: vf.Trace) -> float:
        """How often the model called a tool."""
        return float(sum(len(message.tool_calls or []) for message in trace.assistant_messages))


class WordHuntConfig(vf.TasksetConfig):
    """What `environment.args.taskset` may say."""

    tasks: int = 8
    """How many tasks there are."""


class WordHunt(vf.Taskset[HuntTask, WordHuntConfig]):
    """Words in one of ten files each, the same in every run."""

    def load(self) -> Iterator[HuntTask]:
        """The tasks, in order."""
        chance = random.Random(0)
        for number in range(self.config.tasks):
            data = HuntData(
                idx=number,
                prompt="One of the files in the folder `notes` says what the word is. Write the word, and "
                "nothing else, into the file `answer.txt` in the current folder.",
                answer=chance.choice(WORDS),
                place=f"notes/{chance.randrange(10)}.txt",
            )
            yield HuntTask(data, self.config.task)


__all__ = ["WordHunt"]
