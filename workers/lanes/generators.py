"""Generators of random numbers, of which forks of one process have the same."""

import random
import sys
from typing import Any


def reseed_generators() -> None:
    """Has a fork draw other numbers than those that were forked from the same process."""
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
