"""What a run shows of itself: display, summary, `metrics.jsonl`, Prometheus metrics and spans."""
