"""A taskset of verifiers' v1 API whose tasks use one hook each; a file of its own, for any Python."""

import asyncio

import verifiers.v1 as vf


class HookData(vf.TaskData):
    mode: str = "plain"
    answer: str | None = None


class HookTask(vf.Task[HookData]):
    @property
    def key(self) -> str:
        return self.data.mode

    def _note(self, trace: vf.Trace, what: str) -> None:
        trace.info.setdefault("calls", []).append(what)

    async def setup(self, trace: vf.Trace) -> None:
        self._note(trace, "setup")
        if self.data.mode == "setup raises":
            raise ValueError("no set-up today")

    async def finalize(self, trace: vf.Trace) -> None:
        self._note(trace, "finalize")

    @vf.stop
    async def said_stop(self, trace: vf.Trace) -> bool:
        return trace.last_reply == "stop here"

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)

    @vf.metric
    async def order(self, trace: vf.Trace) -> dict[str, float]:
        return {"in_order": float(trace.info["calls"] == ["setup", "finalize"])}

    @vf.reward(weight=2.0)
    async def correct(self, trace: vf.Trace) -> float:
        if self.data.mode == "reward raises":
            raise KeyError("nothing of the kind")
        if self.data.mode == "reward is no number":
            return float("nan")
        if self.data.mode == "reward waits":
            await asyncio.sleep(60)
        return float(trace.last_reply == (self.data.answer or "ok"))

    @vf.reward
    async def several(self, trace: vf.Trace) -> dict[str, float]:
        return {"brief": 0.5, "kind": 0.25}


MODES = [
    "plain",
    "setup raises",
    "reward raises",
    "reward is no number",
    "tools",
    "stop",
    "messages",
    "system",
    "refused",
    "overlong",
    "oracle",
]


class Hooks(vf.Taskset[HookTask]):
    def load(self):
        for number, mode in enumerate(MODES):
            prompt = f"Play {mode}."
            data = HookData(
                idx=number,
                prompt=[vf.UserMessage(content=prompt)] if mode == "messages" else prompt,
                system_prompt="Be brief." if mode == "system" else None,
                mode=mode,
                answer="42" if mode == "oracle" else None,
            )
            yield HookTask(data, self.config.task)


__all__ = ["Hooks"]
