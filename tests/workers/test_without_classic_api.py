"""Workers run where verifiers has no classic API: only its environments and their clients import it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import workers

FORBID = """
import sys
from importlib.abc import MetaPathFinder


class Forbidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "verifiers.legacy" or name.startswith("verifiers.legacy."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


import verifiers

sys.meta_path.insert(0, Forbidden())
"""


def run_without_classic_api(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FORBID + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


MODULES = [
    "workers.lanes.process",
    "workers.lanes.worker",
    "workers.rollout_worker",
    "workers.sandbox.pool",
    "cluster.plan.plan",
    "cluster.cli.main",
]
CLASSIC = [
    "workers/environments/agentdojo/",
    "workers/environments/agents/",
    "workers/environments/classic/",
    "workers/environments/loading.py",
    "workers/environments/sandboxed.py",
    "workers/environments/shell/",
    "workers/environments/tool_errors.py",
    "workers/environments/toolset_env.py",
    "workers/gateway/",
    "workers/policy/chat_client.py",
    "workers/policy/exact_client.py",
    "workers/policy/oracle_client.py",
]
"""Environments of the classic API, what they are played by, and the clients that speak its types."""


@pytest.mark.slow
def test_what_any_worker_runs_imports_no_classic_api():
    done = run_without_classic_api(
        f"import {', '.join(MODULES)}\nprint([m for m in sys.modules if m.startswith('verifiers.legacy')])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_only_classic_environments_and_their_clients_import_the_classic_api():
    root = Path(workers.__file__).parent.parent
    importing: set[str] = set()
    for path in [*root.glob("workers/**/*.py"), *root.glob("cluster/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name == "verifiers" or name.startswith("verifiers.legacy") for name in names):
                importing.add(str(path.relative_to(root)))
    assert [path for path in sorted(importing) if not path.startswith(tuple(CLASSIC))] == []


@pytest.mark.slow
def test_a_classic_environment_where_there_is_no_classic_api_is_refused_in_words(tmp_path):
    (tmp_path / "mine.py").write_text("def load_environment():\n    return None\n")
    done = run_without_classic_api(
        f"""
from pathlib import Path
from workers.environments.opening import open_environment
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings
try:
    open_environment(EnvironmentSettings(id="mine.py"), Path({str(tmp_path)!r}))
except EnvironmentLoadError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert "environment.id: mine.py is written against verifiers' classic API" in done.stdout
    assert "0.3.1" in done.stdout
