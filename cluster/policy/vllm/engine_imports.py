# pyright: reportMissingTypeStubs=false, reportUnusedImport=false
"""Imports what vLLM's engine process does on a CPU; only the process that it is forked from loads this."""

from workers.collector import collect_seldom

with collect_seldom():
    import setproctitle
    import vllm.v1.engine.core
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401

setproctitle.getproctitle()  # finds its place in memory before a fork has other variables
