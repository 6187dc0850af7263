"""What a deployment's replicas have counted during a run, though some were started anew meanwhile."""

from cluster.policy.vllm.engine_metrics import EngineMetrics

COUNT_FIELDS: tuple[str, ...] = ("prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits")
"""Fields of `EngineMetrics` that only grow, until their replica is started anew."""


class EngineCounts:
    """Adds up by how much each replica's counts have grown from look to look.

    The difference between a deployment's first and last counts would be negative once a replica that had
    counted much is replaced by one that begins at 0.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys(COUNT_FIELDS, 0)
        """By how much the counts have grown since the first look."""
        self._seen: dict[str, EngineMetrics] | None = None

    def add(self, metrics: EngineMetrics) -> dict[str, int]:
        """Adds a look, and returns by how much the counts have grown since the look before."""
        replicas = metrics.each if all(replica.name for replica in metrics.each) else ()
        grown = dict.fromkeys(COUNT_FIELDS, 0)
        for replica in replicas or (metrics,):
            for name, amount in self._replica_growth(replica).items():
                grown[name] += amount
        self._seen = {**(self._seen or {}), **{replica.name: replica for replica in replicas or (metrics,)}}
        for name, amount in grown.items():
            self.totals[name] += amount
        return grown

    def _replica_growth(self, replica: EngineMetrics) -> dict[str, int]:
        if self._seen is None:
            return {}
        before = self._seen.get(replica.name, EngineMetrics())  # one that has come up since began at 0
        counts = {name: (getattr(before, name), getattr(replica, name)) for name in COUNT_FIELDS}
        if all(was <= now for was, now in counts.values()):
            return {name: now - was for name, (was, now) in counts.items()}
        if replica.replicas > 1:  # of several that have no names: one of them, and nobody knows which
            return {}
        return {name: now for name, (_, now) in counts.items()}
