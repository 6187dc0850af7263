"""The chain of an episode's defenses. Whatever a defense raises is recorded as the defense's failure."""

from collections.abc import Sequence
from typing import Any

import verifiers as vf

from workers.environments.agentdojo.defenses import AbortEpisode, Defense, Exchange, ToolOutput
from workers.errors import DefenseError, EnvironmentLoadError


class DefenseChain:
    """The defenses of one episode, applied in their order.

    Args:
        defenses: The defenses; other episodes use the same objects.
        task: What the user asks for in this one.
    """

    def __init__(self, defenses: Sequence[Defense], task: str) -> None:
        self._defenses = [(defense, Exchange(task)) for defense in defenses]
        self._asking = [place for place, (defense, _) in enumerate(self._defenses) if defense.question]

    def __deepcopy__(self, memo: dict[int, Any]) -> "DefenseChain":
        return self  # verifiers copies the state that carries us

    def question(self, number: int) -> str | None:
        """What the policy is asked before it acts, by number; None where there is no such question."""
        return self._defenses[self._asking[number]][0].question if number < len(self._asking) else None

    def tools(self, tools: Sequence[vf.Tool]) -> list[vf.Tool]:
        """Returns the tools that are left by the defenses before the first one that asks the policy.

        Raises:
            DefenseError: A defense raised.
        """
        return self._filter(0, tools)

    def tools_after(self, number: int, messages: vf.Messages, tools: Sequence[vf.Tool]) -> list[vf.Tool]:
        """Returns the tools that are left when the policy has answered a question.

        The defense that asked chooses first, then those that follow it in the config's list, up to the next
        one that asks.

        Args:
            number: Which question, from 0.
            messages: The conversation, which ends with the answer.
            tools: The tools that were left before.

        Raises:
            DefenseError: A defense raised.
        """
        self._set_messages(messages)
        place = self._asking[number]
        defense, exchange = self._defenses[place]
        content = messages[-1].content
        tools = _filter_tools(defense, tools, content if isinstance(content, str) else None, exchange)
        return self._filter(place + 1, tools)

    def _filter(self, start: int, tools: Sequence[vf.Tool]) -> list[vf.Tool]:
        """Has the defenses from a place on choose tools, up to the next one that asks the policy."""
        for defense, exchange in self._defenses[start:]:
            if defense.question:
                break
            tools = _filter_tools(defense, tools, None, exchange)
        return list(tools)

    async def inspect(self, outputs: Sequence[ToolOutput], messages: vf.Messages) -> str | None:
        """Shows the outputs of a turn to the defenses, which may change them.

        Returns:
            The last words of an episode that a defense ends; None where it goes on.

        Raises:
            DefenseError: A defense raised.
        """
        self._set_messages(messages)
        for output in reversed(outputs):
            for defense, exchange in self._defenses:
                try:
                    await defense.tool_result(output, exchange)
                except AbortEpisode as abort:
                    return str(abort)
                except Exception as error:
                    raise DefenseError(defense, "tool_result", error) from error
        return None

    def reminders(self) -> list[str]:
        """User messages to put behind the tool results.

        Raises:
            DefenseError: A defense raised.
        """
        said: list[str] = []
        for defense, exchange in self._defenses:
            try:
                reminder = defense.reminder(exchange)
            except Exception as error:
                raise DefenseError(defense, "reminder", error) from error
            if reminder is not None:
                said.append(reminder)
        return said

    def _set_messages(self, messages: vf.Messages) -> None:
        for _, exchange in self._defenses:
            exchange.messages = messages


def apply_system_message_defenses(defenses: Sequence[Defense], message: str) -> str:
    """Applies the defenses to the system message.

    Raises:
        EnvironmentLoadError: A defense raised.
    """
    for defense in defenses:
        try:
            message = defense.system_message(message)
        except Exception as error:
            raised = DefenseError(defense, "system_message", error)
            raise EnvironmentLoadError(f"environment.args.defense: {raised}") from error
    return message


def _filter_tools(
    defense: Defense, tools: Sequence[vf.Tool], answer: str | None, exchange: Exchange
) -> list[vf.Tool]:
    try:
        return list(defense.filter_tools(tools, answer, exchange))
    except Exception as error:
        raise DefenseError(defense, "filter_tools", error) from error
