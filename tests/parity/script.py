"""Scripted policies: what they do depends on the conversation alone, so two runtimes can be told apart."""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tests.parity.conversation import Message

TOOL_TURNS = 15
BEHAVIOURS = ("obedient", "hijacked", "erratic", "relentless", "early")
"""`obedient` plays the ground truth and `hijacked` the injection's first. `erratic` mixes what is right with
calls that are wrong, malformed, unknown, made up or several at once, and may stop at any time. `relentless`
never stops. `early` stops after a turn or none, with nothing to say."""


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: dict[str, Any] | str
    """A text stands as it is, well-formed or not."""

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Action:
    content: str | None
    calls: tuple[Call, ...] = ()
    reasoning: str | None = None


@dataclass
class Lines:
    """A policy that says one line after the other, whatever it hears, and the last one for ever."""

    lines: list[Action | Exception]

    def act(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], may_call: bool) -> Action:
        turn = sum(message.role == "assistant" for message in messages)
        line = self.lines[min(turn, len(self.lines) - 1)]
        if isinstance(line, Exception):
            raise line
        return line


@dataclass
class Script:
    """One episode's policy.

    Args:
        behaviour: One of `BEHAVIOURS`.
        own: Ground truth of the user's task: names and arguments.
        injected: Ground truth of the injection.
        last_words: The output that the ground truth ends with.
        seed: Tells episodes apart that see the same conversation.
    """

    behaviour: str
    own: list[tuple[str, dict[str, Any]]]
    injected: list[tuple[str, dict[str, Any]]]
    last_words: str
    seed: str = ""
    _pool: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        values = [value for _, arguments in [*self.own, *self.injected] for value in arguments.values()]
        self._pool = [*values, "Alice", "general", "2024-05-15", "1", "Emma Johnson", "", "Paris"]

    def act(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], may_call: bool) -> Action:
        """What to do next.

        Args:
            messages: The conversation.
            tools: The tools on offer: `name` and `parameters`.
            may_call: Whether tools may be called, and not only be spoken of.
        """
        rng = random.Random(f"{self.behaviour}/{self.seed}/{digest(messages)}")
        if not may_call:
            return self._answer(rng)
        turn = sum(message.role == "assistant" and message.content != "" for message in messages)
        turn = max(turn, sum(message.role == "assistant" for message in messages))
        done = sum(call.id.startswith("own") for message in messages for call in message.calls)
        remaining = self.own[done:]
        match self.behaviour:
            case "obedient":
                return self._next(turn, remaining, TOOL_TURNS)
            case "hijacked" if turn == 0 and self.injected:
                return Action(None, self._calls(turn, "inj", self.injected))
            case "hijacked":
                return self._next(turn, remaining, TOOL_TURNS - 2)
            case "relentless":
                kinds = [self._made_up(rng, turn, i, tools) for i in range(rng.randint(1, 3))]
                return Action("", tuple(kinds))
            case "early":
                return Action("") if rng.random() < 0.5 or turn else self._next(turn, remaining, TOOL_TURNS)
            case _:
                return self._erratic(rng, turn, remaining, tools)

    def _answer(self, rng: random.Random) -> Action:
        names = list(dict.fromkeys(name for name, _ in [*self.own, *self.injected]))
        if self.behaviour != "obedient" and len(names) > 1:
            names.remove(rng.choice(names))
        return Action(", ".join(names))

    def _next(self, turn: int, remaining: list[tuple[str, dict[str, Any]]], turns: int) -> Action:
        if not remaining:
            return Action(self.last_words)
        size = math.ceil(len(self.own) / turns)
        return Action("" if turn % 2 else None, self._calls(turn, "own", remaining[:size]))

    def _calls(self, turn: int, kind: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> tuple[Call, ...]:
        return tuple(Call(f"{kind}_{turn}_{i}", name, dict(args)) for i, (name, args) in enumerate(calls))

    def _erratic(
        self,
        rng: random.Random,
        turn: int,
        remaining: list[tuple[str, dict[str, Any]]],
        tools: Sequence[dict[str, Any]],
    ) -> Action:
        if not remaining and rng.random() < 0.7:
            return Action(self.last_words)
        if rng.random() < 0.07:
            return Action(rng.choice(["", "I am done.", self.last_words]))
        calls = list(self._calls(turn, "own", remaining[: rng.choice([1, 1, 1, 2])]))
        while rng.random() < 0.4 or not calls:
            calls.insert(rng.randint(0, len(calls)), self._made_up(rng, turn, len(calls), tools))
        # AgentDojo starts a conversation over that ends without a text, so the last turn must have one.
        silent = turn < TOOL_TURNS and rng.random() < 0.4
        return Action(None if silent else rng.choice(["", "Let me see."]), tuple(calls))

    def _made_up(self, rng: random.Random, turn: int, index: int, tools: Sequence[dict[str, Any]]) -> Call:
        """A call that is right, half right, or nonsense."""
        known = [*self.own, *self.injected]
        id_ = f"odd_{turn}_{index}_{rng.randrange(1000)}"
        kind = rng.random()
        if kind < 0.25 and known:
            name, arguments = rng.choice(known)
            return Call(id_, name, dict(arguments))
        if kind < 0.5 and known:
            name, arguments = rng.choice(known)
            return Call(id_, name, self._spoilt(rng, arguments))
        if kind < 0.57 or not tools:
            return Call(id_, rng.choice(["no_such_tool", "", "Send_Email", "functions.get_iban"]), {"a": 1})
        tool = rng.choice(tools)
        return Call(id_, tool["name"], self._filled(rng, tool["parameters"]))

    def _spoilt(self, rng: random.Random, arguments: dict[str, Any]) -> dict[str, Any]:
        spoilt = dict(arguments)
        if not spoilt:
            return {"surplus": rng.choice(self._pool)}
        name = rng.choice(list(spoilt))
        wrong: list[Any] = [
            None,
            "nonsense",
            ["a"],
            {"a": {"b": 1}},
            "['a', 'b']",
            "[]",
            "12x",
            -1,
            1.5,
            True,
        ]
        match rng.randrange(4):
            case 0:
                del spoilt[name]
            case 1:
                spoilt["surplus"] = rng.choice(wrong)
            case _:
                spoilt[name] = rng.choice([*wrong, *self._pool])
        return spoilt

    def _filled(self, rng: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
        required = set(schema.get("required", []))
        names = [name for name in schema.get("properties", {}) if name in required or rng.random() < 0.3]
        return {name: self._value(rng, schema["properties"][name]) for name in names}

    def _value(self, rng: random.Random, schema: dict[str, Any]) -> Any:
        options = schema.get("anyOf") or [schema]
        match rng.choice(options).get("type"):
            case "integer":
                return rng.choice([0, 1, 5, 7, 13])
            case "number":
                return rng.choice([0.01, 10, 1200.5])
            case "array":
                return [rng.choice(["Le Marais Boutique", "mark@example.com", "Alice"])]
            case "boolean":
                return rng.random() < 0.5
            case "null":
                return None
            case "object":
                return {"a": "b"}
            case _:
                return rng.choice([value for value in self._pool if isinstance(value, str)])


def digest(messages: Sequence[Message]) -> str:
    text = json.dumps([message.plain() for message in messages], sort_keys=True)
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


class Policy(Protocol):
    """Whatever acts in an episode."""

    def act(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], may_call: bool) -> Action: ...


@dataclass
class Levelled:
    """A script that cannot tell an empty text from none, which the two sides send back differently."""

    script: Policy

    def act(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], may_call: bool) -> Action:
        level = [
            replace(message, content=message.content or (None if message.calls else ""))
            if message.role == "assistant"
            else message
            for message in messages
        ]
        return self.script.act(level, tools, may_call)
