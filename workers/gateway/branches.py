"""The branches of an agent's episode: which earlier call each model call goes on from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from workers.gateway.calls import text_of

Key = tuple[Any, ...]
"""What two messages have in common that say the same."""


@dataclass(eq=False)
class Step:
    """A model call that was answered."""

    index: int
    """Its place in the episode."""
    branch: "Branch"
    parent: "Step | None"
    """The step that it goes on from, or that its branch left from."""
    messages: list[Any]
    """What the policy saw, then its answer: verifiers' messages."""
    keys: list[Key]
    """Their keys."""
    tools: str
    """The functions that the policy was offered."""
    trajectory_step: Any
    """verifiers' own step."""

    @property
    def lineage(self) -> list[Any]:
        """The steps of verifiers' from the first one that it goes on from to this one."""
        steps: list[Any] = []
        step: Step | None = self
        while step is not None:
            steps.append(step.trajectory_step)
            before = step.parent
            step = before if before is not None and _begins_with(step.keys, before.keys) else None
        return steps[::-1]


@dataclass(eq=False)
class Branch:
    """Calls that go on from one another."""

    number: int | None = None
    """Its place among the episode's branches; None until a call of it was answered."""
    tip: Step | None = None
    """Its last step."""
    busy: bool = False
    """Whether the policy is thinking about its next."""


@dataclass
class Place:
    """Where a model call stands."""

    branch: Branch
    parent: Step | None
    messages: list[Any]
    """The prompt; what the policy itself has said stands in it as it said it."""
    lineage: list[Any]
    """verifiers' steps that the prompt goes on from, which exact token ids are taken from."""
    keys: list[Key] = field(default_factory=list[Key])
    tools: str = "[]"


class Branches:
    """An episode's branches.

    A call whose messages begin with those of an earlier call and its answer, and that has the same functions,
    goes on from it: in the same branch, unless another call has gone on from there already. Any other call
    begins a branch, which left from the last step that there was.

    What agents send back is not always what they were answered: some leave out the reasoning, or write the
    arguments of a call anew. So messages are compared by what they say, and where they say the same, the
    policy sees its own words.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._numbers = 0
        self._ends: dict[int, list[Step]] = {}
        """Steps by the digest of what they end with: of all keys up to there."""
        self._parallel: dict[Key, Any] = {}
        """What the policy has said, by the keys of its tool calls, where it made several in one answer. Their
        ids do not tell enough: some servers count them anew in each answer."""

    def place(self, messages: list[Any], tools: Sequence[Any]) -> Place:
        """Finds out where a call stands, and holds that place until `settle` or `release`.

        Args:
            messages: The prompt, as the agent sent it.
            tools: The functions that it offers.
        """
        messages = _regrouped(messages, self._parallel)
        keys = [key_of(message) for message in messages]
        offered = _text_of_tools(tools)
        before = self._longest(keys)
        if before is None:
            last = self.steps[-1] if self.steps else None
            return Place(Branch(busy=True), last, messages, [], keys, offered)
        whole = [*before.messages, *messages[len(before.keys) :]]
        same_tools = before.tools == offered
        lineage = before.lineage if same_tools else []
        branch = before.branch
        if branch.tip is not before or branch.busy or not same_tools:
            branch = Branch()
        branch.busy = True
        return Place(branch, before, whole, lineage, keys, offered)

    def settle(self, place: Place, completion: list[Any], trajectory_step: Any) -> Step:
        """Notes that a call was answered.

        Args:
            place: Where it stands.
            completion: The policy's answer, as verifiers' messages.
            trajectory_step: verifiers' step.
        """
        branch = place.branch
        if branch.number is None:
            branch.number, self._numbers = self._numbers, self._numbers + 1
        step = Step(
            index=len(self.steps),
            branch=branch,
            parent=place.parent,
            messages=[*place.messages, *completion],
            keys=[*place.keys, *map(key_of, completion)],
            tools=place.tools,
            trajectory_step=trajectory_step,
        )
        branch.tip, branch.busy = step, False
        self.steps.append(step)
        self._ends.setdefault(_digests(step.keys)[-1], []).append(step)
        calls = getattr(completion[-1], "tool_calls", None) or () if completion else ()
        if len(calls) > 1:
            self._parallel |= dict.fromkeys(_call_keys(completion[-1]), completion[-1])
        return step

    def begin_branch(self, place: Place) -> None:
        """Has a call begin a branch of its own, because it can't go on exactly from where it stands."""
        self.release(place)
        place.branch, place.lineage = Branch(busy=True), []

    def release(self, place: Place) -> None:
        """Gives up the place of a call that came to no answer."""
        place.branch.busy = False

    def _longest(self, keys: list[Key]) -> Step | None:
        """The step that a prompt goes on from: of those that it begins with, the longest and latest."""
        for digest in reversed(_digests(keys)[:-1]):
            for step in reversed(self._ends.get(digest, ())):
                if _begins_with(keys, step.keys):
                    return step
        return None


def _digests(keys: list[Key]) -> list[int]:
    """A digest of the first key, of the first two, and so on."""
    digests: list[int] = []
    before = 0
    for key in keys:
        before = hash((before, key))
        digests.append(before)
    return digests


def key_of(message: Any) -> Key:
    """What a message says, whatever form it has. Reasoning is no part of it: agents leave that out."""
    calls = _call_keys(message)
    content = message.content
    if content is None or isinstance(content, str):
        text = (content or "").strip()
    else:
        given: list[Any] = content
        parts: list[Any] = [part.model_dump() if hasattr(part, "model_dump") else part for part in given]
        text = text_of(parts).strip() if _is_text(parts) else json.dumps(parts, sort_keys=True, default=str)
    return message.role, text, calls, getattr(message, "tool_call_id", None)


def _call_keys(message: Any) -> tuple[Key, ...]:
    """What a message's tool calls say."""
    calls = getattr(message, "tool_calls", None) or ()
    return tuple((call.id, call.name, _meant(call.arguments)) for call in calls)


def _is_text(parts: list[Any]) -> bool:
    return all(isinstance(part, dict) and cast(Any, part).get("type") == "text" for part in parts)


def _meant(arguments: str) -> str:
    """Arguments as what they mean: agents write their JSON anew."""
    try:
        given: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(given, dict):
        fields = cast(dict[str, Any], given)
        if fields.keys() == {"invalid_json"}:
            return str(fields["invalid_json"])  # as an answer in Anthropic's form had it
    return json.dumps(given, sort_keys=True)


def _begins_with(keys: list[Key], start: list[Key]) -> bool:
    return len(keys) >= len(start) and keys[: len(start)] == start


def _text_of_tools(tools: Sequence[Any]) -> str:
    return json.dumps([[tool.name, tool.description, tool.parameters] for tool in tools], default=str)


def _regrouped(messages: list[Any], answers: dict[Key, Any]) -> list[Any]:
    """The messages, with parallel calls in one answer again.

    A dialect whose items are single calls lets an agent send each call with its result; the policy made them
    in one answer, and their results follow it.
    """
    made: list[Any] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        calls = _call_keys(message)
        answer = answers.get(calls[0]) if calls else None
        if answer is None or len(calls) == len(answer.tool_calls):
            made.append(message)
            continue
        wanted, ids = set(_call_keys(answer)), {call.id for call in answer.tool_calls}
        seen, ahead = set(calls), index
        results: list[Any] = []
        while ahead < len(messages):
            following = messages[ahead]
            if getattr(following, "tool_call_id", None) in ids:
                results.append(following)
            elif wanted.intersection(_call_keys(following)):
                seen.update(_call_keys(following))
            else:
                break
            ahead += 1
        if seen == wanted:
            made += [answer, *results]
            index = ahead
        else:
            made.append(message)
    return made
