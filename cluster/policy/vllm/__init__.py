"""A policy served by vLLM under Ray Serve: the driver's side, and the replicas'."""
