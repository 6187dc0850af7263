"""The metrics of a run, as Ray exports them for Prometheus: one table of what there is."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ray.util import metrics

STAGES = ("queue", "setup", "policy", "tools", "scoring", "total")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of the histograms' buckets."""


@dataclass(frozen=True)
class Metric:
    """One metric. Every metric has the label `run`, beside those named here."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = field(default=())

    def exported(self, name: str) -> list[str]:
        """The names under which Prometheus finds it: Ray adds a prefix, and each kind its endings."""
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
        return [f"ray_{name}{ending}" for ending in endings[self.kind]]


METRICS = {
    "kumite_episodes": Metric(
        "counter",
        "Episodes that have ended. `stage` is where an episode failed; it is empty for finished ones.",
        ("status", "stage"),
    ),
    "kumite_retries": Metric("counter", "Second and later attempts at episodes."),
    "kumite_policy_requests": Metric("counter", "Requests that the policy answered with an action."),
    "kumite_prompt_tokens": Metric("counter", "Prompt tokens."),
    "kumite_completion_tokens": Metric("counter", "Sampled tokens."),
    "kumite_sandbox_creations": Metric("counter", "Sandboxes that workers started."),
    "kumite_workers_lost": Metric("counter", "Workers that died."),
    "kumite_stage_seconds": Metric(
        "histogram",
        "Seconds that each finished episode spent in a `stage`: " + ", ".join(STAGES) + ".",
        ("stage",),
    ),
    "kumite_in_flight": Metric("gauge", "Episodes that workers are playing."),
    "kumite_queued": Metric("gauge", "Episodes that no worker has got yet."),
    "kumite_workers": Metric(
        "gauge",
        "Workers by `state`: up, starting (sandbox is starting), pending (loading, or waiting for a node).",
        ("state",),
    ),
    "kumite_nodes": Metric("gauge", "Nodes that the workers are on."),
    "kumite_reward": Metric("gauge", "Mean reward of the episodes finished so far."),
}


class Exporter:
    """Hands values to Ray, whose agent on this node lets Prometheus have them.

    Args:
        run_id: The run, every value's label.
    """

    def __init__(self, run_id: str) -> None:
        self._metrics: dict[str, Any] = {}
        for name, metric in METRICS.items():
            labels = ("run", *metric.labels)
            match metric.kind:
                case "counter":
                    made: Any = metrics.Counter(name, metric.help, labels)
                case "gauge":
                    made = metrics.Gauge(name, metric.help, labels)
                case "histogram":
                    made = metrics.Histogram(name, metric.help, boundaries=list(SECONDS), tag_keys=labels)
            self._metrics[name] = made.set_default_tags({"run": run_id})

    def count(self, name: str, amount: float, **labels: str) -> None:
        """Adds to a counter."""
        if amount > 0:
            self._metrics[name].inc(amount, tags=labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        self._metrics[name].observe(value, tags=labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._metrics[name].set(value, tags=labels)
