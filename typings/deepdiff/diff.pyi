"""What Kumite uses of the module, which has no types: the two methods that compare, and what they read."""

from collections.abc import Callable
from typing import Any, ClassVar

class DeepDiff(dict[str, Any]):
    custom_operators: list[Any]
    threshold_to_diff_deeper: float | None
    _diff: ClassVar[Callable[..., None]]
    _diff_dict: ClassVar[Callable[..., None]]
    def __init__(self, t1: Any, t2: Any, **options: Any) -> None: ...
