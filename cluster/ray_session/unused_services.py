"""What Ray starts on the first node of every cluster, and a local cluster of ours makes no use of.

Three processes, each of which imports Ray: the server of the dashboard (which is left out, but its server
starts all the same, and `ray.init` waits until it answers), the monitor that has an autoscaler start and end
nodes, and the one that sends what workers print to drivers. Read in Ray 2.60.0, `ray._private.node`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ray._private import node

_STARTS = ("start_api_server", "start_monitor", "start_log_monitor")
_Node: Any = node.Node  # its own types are partial


@contextmanager
def without_unused_services() -> Generator[None]:
    """Keeps `ray.init` from starting them; for clusters of one node, which no autoscaler changes."""
    starts = {name: getattr(_Node, name) for name in _STARTS}
    for name in starts:
        setattr(_Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(_Node, name, start)


def _start_nothing(_node: object, **_options: object) -> None:
    """Stands in for the start of a process."""
