"""What a run tells of itself: metrics.jsonl, Prometheus' names, spans, logs."""

import asyncio
import json
import logging
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cluster.errors import ConfigError
from cluster.observe.meter import Meter, MetricsLine
from cluster.observe.metrics import METRICS, Exporter
from cluster.observe.progress import Progress
from cluster.observe.spans import Spans
from cluster.pool.worker_pool import PoolState
from tests.cluster.synthetic import episode, failed_episode, result
from workers import logs
from workers.records import EpisodeSpec

POOL = PoolState(up=2, starting=0, pending=1, in_flight=3, nodes=2, lost=1)
DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana.json"


def spec(number=0, **changes):
    fields = {"episode_id": f"{number:016x}", "task_id": f"t{number}", "group_id": "g", "sample_index": 0}
    return EpisodeSpec(**fields, row={}, attempt=1, dispatched_at=100.0, **changes)


def ended(record, **changes):
    return result(record).model_copy(update=changes)


class Exported(Exporter):
    """What would go to Ray."""

    def __init__(self):
        self.values: dict[tuple[str, ...], float] = {}

    def count(self, name, amount, **labels):
        self.set(name, self.values.get((name, *labels.values()), 0) + amount, **labels)

    def observe(self, name, value, **labels):
        self.count(name, 1, **labels)

    def set(self, name, value, **labels):
        assert set(labels) == set(METRICS[name].labels)
        self.values[name, *labels.values()] = value


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [MetricsLine.model_validate_json(line) for line in text.splitlines() if line]


def play(observer):
    observer.dispatched([spec(i) for i in range(4)])
    for number, record in enumerate([episode(0), episode(1, reward=0.0), failed_episode(2)]):
        observer.returned([spec(number)])
        changes: dict[str, Any] = {"policy_requests": 2, "sandbox_creations": int(number == 0)}
        if record.status == "failed":
            changes["error_stage"] = "setup"
        observer.ended(spec(number), ended(record, **changes))
    observer.retried(1)
    observer.cancelled(5)


async def test_the_time_series_says_how_the_run_is_doing(tmp_path):
    meter = Meter(tmp_path, None, lambda: POOL, 20)
    async with meter.writing(every=3600):
        await asyncio.sleep(0)
        play(meter)
    first, last = lines(tmp_path)
    assert (first.finished, first.in_flight, first.queued, first.stage_seconds) == (0, 0, 20, {})
    assert (last.finished, last.failed, last.cancelled, last.retries) == (2, {"setup": 1}, 5, 1)
    assert (last.in_flight, last.queued) == (1, 11)
    assert (last.workers_up, last.workers_pending, last.workers_lost, last.nodes) == (2, 1, 1, 2)
    assert (last.policy_requests, last.completion_tokens, last.sandbox_creations) == (6, 6, 1)
    assert last.reward == 0.5
    assert last.stage_seconds["policy"].model_dump() == {"mean": 3.0, "p50": 3.0, "p95": 3.0}
    assert last.episodes_per_second > 0


async def test_a_resumed_run_goes_on_after_a_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"time": 1')
    async with Meter(tmp_path, None, lambda: POOL, 1).writing(every=3600):
        await asyncio.sleep(0)
    torn, *rest = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert torn == '{"time": 1'
    assert len([MetricsLine.model_validate_json(line) for line in rest]) == 2


async def test_a_disk_that_takes_no_line_ends_no_run(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").mkdir()
    async with Meter(tmp_path, None, lambda: POOL, 1).writing(every=3600):
        await asyncio.sleep(0)
    assert "metrics.jsonl cannot be written" in caplog.text


def test_what_is_exported_is_what_the_table_lists(tmp_path):
    exported = Exported()
    meter = Meter(tmp_path, exported, lambda: POOL, 20)
    play(meter)
    meter.line()
    assert {name for name, *_ in exported.values} == set(METRICS)
    assert exported.values["kumite_episodes", "finished", ""] == 2
    assert exported.values["kumite_episodes", "failed", "setup"] == 1
    assert exported.values["kumite_episodes", "cancelled", ""] == 5
    assert exported.values["kumite_stage_seconds", "tools"] == 2
    assert exported.values["kumite_workers", "pending"] == 1
    assert exported.values["kumite_queued",] == 11


def test_every_metric_of_the_dashboard_is_one_that_we_export():
    named = set(re.findall(r"ray_\w+", DASHBOARD.read_text()))
    known = {each for name, metric in METRICS.items() for each in metric.exported(name)}
    assert named <= known
    assert {name for name, metric in METRICS.items() if named & set(metric.exported(name))} == set(METRICS)


def test_the_dashboard_filters_by_labels_that_there_are():
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            used = set(re.findall(r"(\w+)=~?\"", target["expr"])) | {
                label.strip()
                for by in re.findall(r"by \(([^)]*)\)", target["expr"])
                for label in by.split(",")
            }
            names = re.findall(r"ray_(kumite_\w+?)(?:_total|_bucket|_sum|_count)?\b", target["expr"])
            labels = {label for name in names for label in METRICS[name].labels}
            assert used <= {"run", "le", *labels}, target["expr"]


def test_a_span_tells_what_became_of_an_episode():
    exporter = InMemorySpanExporter()
    with Spans("run-1", exporter) as spans:
        play(spans)
    found = {span.attributes["kumite.episode"]: span for span in exporter.get_finished_spans()}
    assert len(found) == 3
    good, failed = found[f"{0:016x}"], found[f"{2:016x}"]
    assert good.resource.attributes["kumite.run"] == "run-1"
    assert good.start_time == 100 * 10**9 < (good.end_time or 0)
    assert good.attributes["kumite.seconds.policy"] == 3.0
    assert good.attributes["kumite.reward"] == 1.0
    assert failed.attributes["kumite.failed_stage"] == "setup"
    assert "kumite.reward" not in (failed.attributes or {})
    assert failed.status.status_code.name == "ERROR"


@pytest.mark.slow
def test_spans_go_where_opentelemetrys_own_variables_say(monkeypatch):
    posted = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        with Spans("run-1") as spans:
            play(spans)
        collector.shutdown()
    [(path, body)] = posted
    assert path == "/v1/traces"
    assert body.count(b"kumite.episode") == 3 and b"run-1" in body


def test_spans_without_opentelemetry_are_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"observe\.spans needs .* pip install -e '\.\[otel\]'"):
        Spans("r")


def test_a_log_line_names_run_and_episode(tmp_path):
    handler = logs.LogFile(tmp_path / "log.jsonl")
    logs.log_to(handler, run="r", worker="w")
    try:
        logging.getLogger("workers.anything").info("said %d", 1)
        token = logs.episode.set("e1")
        logging.getLogger("cluster.anything").warning("about one")
        logs.episode.reset(token)
        logging.getLogger("cluster.anything").info("about another", extra={"episode": "e2"})
        logging.getLogger("elsewhere").warning("not ours")
    finally:
        logs.stop_logging_to(handler)
    said = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["message"], line.get("episode")) for line in said] == [
        ("said 1", None),
        ("about one", "e1"),
        ("about another", "e2"),
    ]
    assert {(line["run"], line["worker"]) for line in said} == {("r", "w")}


def test_stragglers_are_named_oldest_first(monkeypatch):
    from io import StringIO

    from rich.console import Console

    progress = Progress(Console(file=StringIO()))
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress.dispatched([spec(1)])
    now += 5
    progress.dispatched([spec(2)])
    progress.ended(spec(9), ended(episode(9)))  # it took 15 s
    now += 58
    assert progress._tally.stragglers() == [("t1", 63.0)]
    assert "stragglers 1 (t1 for 1:03)" in progress._progress_line()
    progress.returned([spec(1)])
    assert progress._tally.stragglers() == []
