"""Imports what drivers do; a process that has done so is forked for each of them: see `driver_forks`."""

import importlib
import os
import threading

_IMPORTED = (
    "cluster.cli.main",
    "cluster.run",
    "tests.helpers.driver",
    "workers.environments.agentdojo.environment",
    "workers.environments.classic.environment",
    "workers.environments.opening",
    "workers.environments.planner",
    "workers.environments.shell.environment",
    "workers.environments.v1.environment",
    "workers.lanes.process",
)

for variable in [name for name in os.environ if name.startswith("RAY_")]:
    del os.environ[variable]
os.environ["HF_HUB_OFFLINE"] = "1"
for module in _IMPORTED:
    importlib.import_module(module)
assert threading.active_count() == 1, "forks would miss the threads of what was imported"
