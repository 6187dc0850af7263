"""What the tokens of a run cost, by the prices in its config."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from cluster.config.price import TokenPrice
from workers.records import Record


class Cost(Record):
    """What a run's tokens cost, failed episodes included, in the currency of `policy.price`."""

    total: float
    """All of them."""
    per_episode: float
    """The total by the episodes that ended."""
    per_pass: float | None
    """The total by the finished episodes whose reward is at least 1. Null where there is none."""
    cached_tokens: int | None
    """Prompt tokens that were counted at the price of cached ones. Null where the endpoint told of none: all
    are counted at `input`."""


def read_price(run_dir: Path) -> TokenPrice | None:
    """The price of tokens in a run's config; None where it has none."""
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        price = config["policy"]["price"]
        return None if price is None else TokenPrice.model_validate(price)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError):
        return None


def compute_cost(
    price: TokenPrice,
    *,
    prompt_tokens: int,
    cached_tokens: int | None,
    completion_tokens: int,
    episodes: int,
    passed: int,
) -> Cost:
    """The cost of a run's tokens.

    Args:
        price: Of a million tokens.
        prompt_tokens: Tokens of all prompts, cached ones included.
        cached_tokens: Those of them that the endpoint says it had in its cache. None: it told of none.
        completion_tokens: Tokens sampled.
        episodes: Episodes that ended.
        passed: Finished episodes whose reward is at least 1.
    """
    cached = cached_tokens or 0
    total = (prompt_tokens - cached) * price.input + completion_tokens * price.output
    total = (total + cached * (price.input if price.cached is None else price.cached)) / 1e6
    return Cost(
        total=total,
        per_episode=total / episodes if episodes else 0.0,
        per_pass=total / passed if passed else None,
        cached_tokens=cached_tokens,
    )
