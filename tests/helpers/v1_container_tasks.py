"""A taskset of verifiers' v1 API whose hooks use the runtime; a file of its own, for any Python."""

import asyncio
from typing import Any

import verifiers.v1 as vf

HAS_USERS = "agent_user" in vf.TaskData.model_fields
"""From 0.4.0 on, a task may name the user that its agent works as; this one has its home in /run."""


class BoxData(vf.TaskData):
    mode: str = "plain"
    answer: str = "tatami"


class BoxTask(vf.Task[BoxData]):
    @property
    def key(self) -> str:
        return self.data.mode

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        if self.data.mode == "user":
            await runtime.run(["sh", "-c", "mkdir -p /run/ircd && chown irc /run/ircd && chmod 777 ."], {})
        if self.data.mode == "setup runs":
            assert (await runtime.run(["sh", "-c", "exit 3"], {})).exit_code == 3
        await runtime.write("notes/hint.txt", b"the word is tatami\n")
        if self.data.mode == "contract":
            trace.info["contract"] = await _use_contract(runtime)

    async def finalize(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        listed = await runtime.run(["sh", "-c", "ls; echo $GIVEN >&2"], {"GIVEN": "yes"})
        trace.info["files"] = listed.stdout.split()
        trace.info["given"] = listed.stderr.strip()

    @vf.metric
    async def files(self, trace: vf.Trace) -> float:
        return float(len(trace.info["files"]))

    @vf.metric
    async def contract(self, trace: vf.Trace) -> dict[str, float]:
        return {f"contract {name}": float(held) for name, held in trace.info.get("contract", {}).items()}

    @vf.reward
    async def told(self, trace: vf.Trace) -> float:
        return float(self.data.answer in (trace.last_reply or ""))

    @vf.reward(weight=0.5)
    async def written(self, runtime: vf.Runtime) -> float:
        found = await runtime.run(["cat", "out.txt"], {})
        return float(found.stdout.strip() == self.data.answer)


async def _use_contract(runtime: vf.Runtime) -> dict[str, bool]:
    """What a runtime promises, tried."""
    large = bytes(range(256)) * 40_000
    await runtime.write("deep/er/large.bin", large)
    kept = await runtime.read("deep/er/large.bin")
    try:
        await runtime.read("deep/er/large.bin", max_bytes=1000)
        bounded = False
    except Exception as error:  # noqa: BLE001 - its class is verifiers' own
        bounded = type(error).__name__ == "SandboxError"
    try:
        await runtime.read("no such file")
        missing = False
    except Exception as error:  # noqa: BLE001 - see above
        missing = type(error).__name__ == "SandboxError"
    process: Any = await runtime.open_process(["cat"], {})
    await process.write(b"said\n")
    said = await anext(aiter(process.stdout))
    was_alive = await process.poll() is None
    await process.kill()
    ended = await asyncio.wait_for(process.wait(), 10)
    await runtime.run_background(["sh", "-c", "echo up; sleep 100"], {}, "server.log")
    slow = asyncio.create_task(runtime.run(["sleep", "100"], {}))
    quick = [await runtime.run(["echo", str(number)], {}) for number in range(3)]
    slow.cancel()
    await asyncio.wait([slow])
    listing = "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $each; echo; done 2>/dev/null"

    async def one_sleeps() -> bool:
        asleep = await runtime.run(["sh", "-c", f"{listing} | grep -c '^sleep 100 $'"], {})
        return asleep.stdout.strip() == "1"

    async def has_logged() -> bool:
        return await runtime.read("server.log") == b"up\n"

    network = await runtime.run(["sh", "-c", "cat /proc/net/dev | grep -c eth"], {})
    return {
        "files": kept == large,
        "bound": bounded,
        "missing": missing,
        "live": (said, was_alive, ended) == (b"said\n", True, 137),
        "background": await _eventually(has_logged),
        "several": [result.stdout for result in quick] == ["0\n", "1\n", "2\n"],
        "cancelled": slow.cancelled() and await _eventually(one_sleeps),
        "loopback only": network.stdout.strip() == "0",
        "alive": await runtime.alive(),
    }


async def _eventually(look: Any) -> bool:
    """Whether something comes about: programs and signals take their time on a busy machine."""
    for _ in range(100):
        if await look():
            return True
        await asyncio.sleep(0.1)
    return False


def _user_of(mode: str) -> Any:
    return {"agent_user": "irc"} if mode == "user" and HAS_USERS else {}


MODES = ["plain", "setup runs", "contract", "image", "no image", "killed", "user"]


class BoxesConfig(vf.TasksetConfig):
    modes: list[str] = MODES


class Boxes(vf.Taskset[BoxTask, BoxesConfig]):
    def load(self):
        for number, mode in enumerate(self.config.modes):
            yield BoxTask(
                BoxData(
                    idx=number,
                    prompt=f"Play {mode}: find the word in notes and write it to out.txt",
                    mode=mode,
                    image={"image": "kumite-base:bookworm", "no image": "kumite.invalid/none:1"}.get(mode),
                    **_user_of(mode),
                ),
                self.config.task,
            )


__all__ = ["Boxes"]
