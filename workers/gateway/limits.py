"""How much an agent may ask of the policy in one episode."""

import time
from dataclasses import dataclass

from pydantic import Field, model_validator

from workers.gateway.errors import GatewayError
from workers.settings import Settings


class TokenPrices(Settings):
    """What a million tokens cost, in the unit of `cost`."""

    input: float = Field(ge=0)
    """Price of a million prompt tokens."""
    output: float = Field(ge=0)
    """Price of a million sampled tokens."""


class AgentLimits(Settings):
    """`environment.args.agent.limits`: when one is reached, the agent's further model calls are refused."""

    turns: int = Field(default=50, gt=0)
    """Most model calls."""
    tokens: int | None = Field(default=None, gt=0)
    """Most sampled tokens, all calls together. A call that is under way when it is reached is still answered.
    Null: any number."""
    seconds: float = Field(default=600.0, gt=0)
    """Seconds that the agent has, including the time of the policy."""
    cost: float | None = Field(default=None, gt=0)
    """Most that all calls together may cost, by `prices`. A call that is under way when it is reached is
    still answered. Null: any cost."""
    prices: TokenPrices | None = None
    """What tokens cost; needed for `cost`."""
    grace: float = Field(default=20.0, gt=0)
    """Seconds that the agent has to end by itself after the first refused call. Then it is killed with all
    processes that it started, and its work is graded as it is."""

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> "AgentLimits":
        if self.cost is not None and self.prices is None:
            raise ValueError(
                f"agent.limits.cost: {self.cost:g} is given without prices; add "
                "prices: {input: …, output: …}, what a million tokens cost"
            )
        return self


@dataclass
class LimitWatch:
    """Counts what one episode's agent has asked for.

    Args:
        limits: How much that may be.
    """

    limits: AgentLimits
    calls: int = 0
    """Model calls that were answered, or are about to be."""
    sampled: int = 0
    prompted: int = 0
    began: float = 0.0
    reached: str | None = None
    """The limit that was reached first, as a stop reason names it."""
    refused_at: float | None = None
    """When a call was first refused for it."""

    def __post_init__(self) -> None:
        self.began = self.began or time.monotonic()

    @property
    def cost(self) -> float:
        """What all calls have cost so far."""
        prices = self.limits.prices
        if prices is None:
            return 0.0
        return (self.prompted * prices.input + self.sampled * prices.output) / 1e6

    @property
    def seconds_left(self) -> float:
        """Until the time is over."""
        return self.began + self.limits.seconds - time.monotonic()

    def admit(self) -> None:
        """Counts a call.

        Raises:
            GatewayError: A limit is reached.
        """
        limits = self.limits
        reached, words = None, ""
        if self.calls >= limits.turns:
            reached, words = "max_turns", f"{limits.turns} model calls"
        elif limits.tokens is not None and self.sampled >= limits.tokens:
            reached, words = "max_tokens", f"{limits.tokens:,} sampled tokens"
        elif self.seconds_left <= 0:
            reached, words = "max_seconds", f"{limits.seconds:g} seconds"
        elif limits.cost is not None and self.cost >= limits.cost:
            reached, words = "max_cost", f"a cost of {limits.cost:g}"
        if reached is None:
            self.calls += 1
            return
        self.reached = self.reached or reached
        self.refused_at = self.refused_at or time.monotonic()
        raise GatewayError(
            "limit",
            f"this episode's limit is reached: {words}. Stop now; what is done is graded as it is",
        )

    def take_back(self) -> None:
        """Uncounts a call that came to no answer."""
        self.calls -= 1

    def note(self, prompted: int, sampled: int) -> None:
        """Notes the tokens of an answer."""
        self.prompted += prompted
        self.sampled += sampled
