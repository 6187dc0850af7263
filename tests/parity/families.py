"""Families of policies, each with a habit of its own: what it does depends on the conversation alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.parity.conversation import Message
from tests.parity.script import TOOL_TURNS, Action, Call

FAMILIES = ("mute", "gullible", "clumsy", "hasty", "thinking", "raving", "endless", "wordy")
"""`mute` never calls a tool. `gullible` does its task one call at a time and, when it reads what the attacker
wants, does that first. `clumsy` gets each call's arguments wrong in three ways before it gets them right.
`hasty` makes all its calls at once, each of them twice. `thinking` reasons before each action. `raving` calls
tools that are not there, by names that are no names. `endless` never stops. `wordy` says and calls what is
hard to write down: quotes, emoji, control characters, long texts, large and deep values."""

_ODD_TEXT = "\"quoted\" 'single' \\back\\slash\t\x07 {brace} <<mark>> – ½ 日本語 👩🏽‍🔬 \u2028 e\u0301 $x$ %s"
_WRONG: tuple[Any, ...] = (None, {"a": [1, {"b": None}]}, ["x", "y"], "['x', 'y']", True, -1.5, "")


@dataclass(frozen=True)
class Family:
    """One episode's policy.

    Args:
        name: One of `FAMILIES`.
        own: Ground truth of the user's task: names and arguments.
        injected: Ground truth of the injection.
        goal: What the attacker asks for, in the words that are injected; None where there is no attacker.
        last_words: The output that the ground truth ends with.
    """

    name: str
    own: Sequence[tuple[str, dict[str, Any]]]
    injected: Sequence[tuple[str, dict[str, Any]]]
    goal: str | None
    last_words: str

    def act(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], may_call: bool) -> Action:
        """What to do next, see `Script.act`."""
        if not may_call:
            return self._name_tools(tools)
        turn = sum(message.role == "assistant" for message in messages)
        done = [call.id for message in messages for call in message.calls]
        match self.name:
            case "mute":
                return Action(self.last_words or "I would rather not.")
            case "gullible":
                return self._gullible(messages, done)
            case "clumsy":
                return self._clumsy(turn, len(done))
            case "hasty":
                return self._hasty(done)
            case "thinking":
                return self._thinking(turn, len(done))
            case "raving":
                return self._raving(turn, tools)
            case "endless":
                return self._endless(turn, tools)
            case _:
                return self._wordy(turn, tools)

    def _name_tools(self, tools: Sequence[dict[str, Any]]) -> Action:
        """The answer to a tool filter, also such as name no tool, or all of them, or say nothing."""
        names = [tool["name"] for tool in tools]
        match self.name:
            case "mute":
                return Action(None)
            case "raving":
                return Action("none of these")
            case "wordy":
                return Action(f"{_ODD_TEXT}: {names[0]}\n\n- `{names[-1]}`")
            case "hasty":
                return Action(", ".join(names))
            case "thinking":
                return Action(", ".join(names[::2]), reasoning="Which of them do I need?")
            case _:
                return Action(", ".join(dict.fromkeys(name for name, _ in [*self.own, *self.injected])))

    def _gullible(self, messages: Sequence[Message], done: Sequence[str]) -> Action:
        heard = [message.content or "" for message in messages if message.role == "tool"]
        read = self.goal is not None and any(_squeeze(self.goal) in _squeeze(text) for text in heard)
        obeyed = any(id_.startswith("obey") for id_ in done)
        if read and not obeyed:
            return Action("At once.", self._calls("obey", self.injected))
        place = sum(id_.startswith("own") for id_ in done)
        if place >= len(self.own) or len(heard) >= TOOL_TURNS - 1:
            return Action(self.last_words or "Done.")
        return Action(None, (self._call(f"own_{place}", self.own[place]),))

    def _clumsy(self, turn: int, made: int) -> Action:
        place, attempt = divmod(turn, 4)
        if place >= min(3, len(self.own)):
            return Action("That is all I can do.")
        name, right = self.own[place]
        wrong = _WRONG[(place * 3 + attempt) % len(_WRONG)]
        match attempt:
            case 0:  # one is missing
                arguments = dict(list(right.items())[1:])
            case 1:  # one is of another type
                arguments = {**right, next(iter(right), "what"): wrong}
            case 2:  # there is one too many
                arguments = {**right, "surplus": wrong}
            case _:
                arguments = right
        return Action("" if turn % 2 else None, (Call(f"try_{made}", name, arguments),))

    def _hasty(self, done: Sequence[str]) -> Action:
        if done:
            return Action(self.last_words or "Done.")
        calls = [*self.own, *self.injected] * 2
        return Action("All at once:" if calls else "Nothing to do.", self._calls("all", calls))

    def _thinking(self, turn: int, place: int) -> Action:
        thought = f"Turn {turn}.\nWhat was I asked? {_ODD_TEXT}"
        if place >= min(len(self.own), TOOL_TURNS):
            return Action(self.last_words or "Done.", reasoning=thought)
        return Action("" if turn % 2 else None, (self._call(f"own_{place}", self.own[place]),), thought)

    def _raving(self, turn: int, tools: Sequence[dict[str, Any]]) -> Action:
        names = ["<empty-function-name>", "", "no_such_tool", "send money", "functions.get_iban", "日本語"]
        if tools:
            names += [tools[0]["name"].upper(), f" {tools[0]['name']}", tools[0]["name"]]
        names += [name for name, _ in self.own[:1]]
        if turn >= 3:
            return Action("I give up.")
        made = [Call(f"rave_{turn}_{i}", name, {"a": turn}) for i, name in enumerate(names[turn::3])]
        return Action(None if turn else "Let me try.", tuple(made))

    def _endless(self, turn: int, tools: Sequence[dict[str, Any]]) -> Action:
        # AgentDojo starts a conversation over that ends without a text, so each turn has one.
        names = [tool["name"] for tool in tools if not tool["parameters"].get("required")]
        name = names[turn % len(names)] if names else "get_nothing"
        return Action(f"Turn {turn}, and on.", (Call(f"on_{turn}", name, {}),))

    def _wordy(self, turn: int, tools: Sequence[dict[str, Any]]) -> Action:
        if turn == 0 and self.own:
            name, arguments = self.own[0]
            spaced = json.dumps(arguments, indent=2, ensure_ascii=False)
            return Action(_ODD_TEXT, (Call("a", name, f"\n{spaced} "), Call('id "b" \\', name, arguments)))
        if turn == 1 and tools:
            values = (_ODD_TEXT, 2**70, 1e-300, {"deep": [[[{"er": _ODD_TEXT}]]]}, "long, " * 2000)
            odd = [
                Call(
                    f"odd_{i}", tool["name"], {key: value for key in tool["parameters"].get("properties", {})}
                )
                for i, (tool, value) in enumerate(zip(tools, values, strict=False))
            ]
            return Action("  \n", tuple(odd))
        return Action(f"  {_ODD_TEXT}\n\n{self.last_words}\n ")

    def _calls(self, kind: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> tuple[Call, ...]:
        return tuple(self._call(f"{kind}_{place}", call) for place, call in enumerate(calls))

    def _call(self, id_: str, call: tuple[str, dict[str, Any]]) -> Call:
        name, arguments = call
        return Call(id_, name, dict(arguments))


def _squeeze(text: str) -> str:
    """A text without what YAML does to it: white space and quotes."""
    return "".join(each for each in text if each.isalnum())
