"""A span of OpenTelemetry for every episode, for those who have a collector."""

import time
from types import TracebackType
from typing import Any, Self

from cluster.errors import ConfigError
from workers.records import EpisodeResult, EpisodeSpec, Timings

_NANOSECONDS = 1_000_000_000


class Spans:
    """Sends a span per episode that has ended; where to, OpenTelemetry's own `OTEL_…` variables say.

    A span lasts from the dispatch of the last attempt to the record. It names the run, episode, task, group,
    and has the seconds of each stage.

    Args:
        run_id: The run.
        exporter: In place of the one for OTLP over HTTP.

    Raises:
        ConfigError: The packages are not installed.
    """

    def __init__(self, run_id: str, exporter: Any = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise ConfigError(
                f"observe.spans needs OpenTelemetry, but its package {error.name} is not installed: "
                "pip install -e '.[otel]', in Kumite's folder"
            ) from error
        resource = Resource.create({"service.name": "kumite", "kumite.run": run_id})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("kumite")

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""

    def retried(self, episodes: int) -> None:
        """See `Observer`."""

    def cancelled(self, episodes: int) -> None:
        """See `Observer`."""

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """See `Observer`."""
        from opentelemetry.trace import Status, StatusCode

        attributes = {
            "kumite.episode": spec.episode_id,
            "kumite.task": spec.task_id,
            "kumite.group": spec.group_id,
            "kumite.sample": spec.sample_index,
            "kumite.attempt": spec.attempt,
            "kumite.status": result.status,
            "kumite.policy_requests": result.policy_requests,
            "kumite.prompt_tokens": result.usage.prompt_tokens,
            "kumite.completion_tokens": result.usage.completion_tokens,
            **{f"kumite.seconds.{stage}": getattr(result.timings, stage) for stage in Timings.model_fields},
        }
        if result.reward is not None:
            attributes["kumite.reward"] = result.reward
        span = self._tracer.start_span(
            "episode", start_time=int(spec.dispatched_at * _NANOSECONDS), attributes=attributes
        )
        if result.status == "failed":
            span.set_attribute("kumite.failed_stage", result.error_stage or "")
            span.set_status(Status(StatusCode.ERROR, result.error_message))
        span.end(time.time_ns())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._provider.shutdown()
