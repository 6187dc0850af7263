"""The rooms stand in an order that a wrong import breaks, and no import leads back to its own file."""

import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "workers", "sandbox_images")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(program), "--no-cache", "--config", str(folder / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The project's own sources, to plant an import in."""
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    kept = shutil.ignore_patterns("__pycache__", "page", "dist", "task.toml")
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=kept)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "statement", "broken"),
    [
        ("cluster/dataset/journal.py", "from cluster.policy import base", "cluster stand in one order"),
        ("cluster/config/file.py", "from cluster.plan import plan", "cluster stand in one order"),
        ("cluster/policy/base.py", "from cluster.pool import worker_pool", "cluster stand in one order"),
        ("workers/records.py", "from cluster import errors", "three layers"),
        ("sandbox_images/packages.py", "import workers.settings", "imports nothing of the host's"),
    ],
)
def test_an_import_against_the_order_breaks_the_contract(
    tree: Path, file: str, statement: str, broken: str
) -> None:
    path = tree / file
    path.write_text(f"{path.read_text()}\n\ndef planted() -> None:\n    {statement}\n")
    done = lint_imports(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(broken in line for line in named), done.stdout


@pytest.mark.slow
def test_the_tree_as_it_is_keeps_the_contract(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout + done.stderr


def imports() -> grimp.ImportGraph:
    """What imports what as it runs, within functions too."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def check_order(graph: grimp.ImportGraph) -> None:
    """Sees that files can be read in an order in which none needs a later one.

    Raises:
        CycleError: There is a circle. It is named.
    """
    TopologicalSorter(
        {file: graph.find_modules_directly_imported_by(file) for file in graph.modules}
    ).prepare()


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = imports()
    assert len(graph.modules) > 400
    check_order(graph)


def test_a_circle_of_files_is_named() -> None:
    graph = imports()
    graph.add_import(importer="workers.environments.shell.shell_env", imported="workers.environments.opening")
    graph.add_import(
        importer="workers.environments.opening", imported="workers.environments.shell.environment"
    )
    with pytest.raises(CycleError, match="shell_env"):
        check_order(graph)
