"""What runs once per run: configuration, command line, coordinator, worker pool, policy and dataset."""

__version__ = "0.1.0"
