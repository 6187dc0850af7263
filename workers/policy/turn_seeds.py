"""The seed of each turn: an episode's first turn has the episode's own, each later one another."""

import hashlib
from typing import Any

from workers.environments import tracing


def turn_seed(seed: int, turn: int) -> int:
    """The seed of one turn of an episode.

    Args:
        seed: The episode's seed.
        turn: Number of the turn, from 0 on.

    Returns:
        A non-negative int32, which every engine takes; the episode's seed for turn 0.
    """
    if turn == 0:
        return seed
    digest = hashlib.blake2s(f"{seed}/{turn}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def seed_turn(sampling: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the running episode's next turn, with a seed of its own.

    With one seed for all turns, an engine draws token k of each of them with the same noise. A seed that is
    not the episode's, but the environment's own, stays as it is.

    Args:
        sampling: The arguments, as verifiers hands them to a client.
    """
    trace = tracing.current_trace.get()
    if trace is None or trace.seed is None or sampling.get("seed") != trace.seed:
        return sampling
    turn, trace.seeded_turns = trace.seeded_turns, trace.seeded_turns + 1
    return {**sampling, "seed": turn_seed(trace.seed, turn)}
