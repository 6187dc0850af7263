"""What docs/architecture.md and CONTRIBUTING.md name is there, and the rooms stand in the order they say."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [ARCHITECTURE, ROOT / "CONTRIBUTING.md"]
_TOP = "|".join(re.escape(path.name) for path in sorted(ROOT.iterdir()) if not path.name.startswith("."))
_NAMED = re.compile(rf"`((?:{_TOP})(?:/[\w.-]+)*/?(?:::[\w.]+)?)`")
"""A file or folder in backticks, perhaps with what it defines: `path/to/file.py::Class.method`."""


def named_on(text: str) -> list[str]:
    """The paths that a page names; a bare `workers` is a word."""
    return sorted({name for name in _NAMED.findall(text) if "/" in name or "." in name})


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module defines at its top level, and what its classes define, as `Class.name`."""
    return frozenset(_defined(ast.parse(file.read_text()).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> list[str]:
    found: list[str] = []
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.append(f"{prefix}{name}")
            case ast.ClassDef(name=name):
                found += [f"{prefix}{name}", *_defined(node.body, f"{prefix}{name}.")]
            case ast.Assign(targets=targets):
                found += [f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.append(f"{prefix}{name}")
            case _:
                pass
    return found


def missing(name: str) -> str | None:
    """Why what a page names is not there; None where it is."""
    path, _, inside = name.partition("::")
    if not (ROOT / path).exists():
        return f"{name}: there is no {path}"
    if inside and inside not in names_in(ROOT / path):
        return f"{name}: {path} defines no {inside}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_name_of_the_page_is_there(page: Path):
    named = named_on(page.read_text())
    assert named
    assert [complaint for name in named if (complaint := missing(name))] == []


def test_a_path_or_a_name_that_is_not_there_is_told():
    page = "`cluster/run.py::run`, `cluster/walk.py`, `cluster/run.py::walk`, `cluster/plan/`, `workers`"
    named = named_on(page)
    assert named == ["cluster/plan/", "cluster/run.py::run", "cluster/run.py::walk", "cluster/walk.py"]
    assert [missing(name) for name in named] == [
        None,
        None,
        "cluster/run.py::walk: cluster/run.py defines no walk",
        "cluster/walk.py: there is no cluster/walk.py",
    ]


def test_rooms_of_the_page_are_those_of_the_import_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["cluster"]]
    [rooms] = re.findall(r"<!-- rooms -->\n```\n(.*?)```", ARCHITECTURE.read_text(), re.DOTALL)
    assert rooms.splitlines() == layers


def test_every_room_of_cluster_is_described():
    described = re.findall(r"^\| (.+?) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    rooms = {
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for path in (ROOT / "cluster").iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith("_")
    }
    assert sorted(room for room in rooms if not any(f"`{room}`" in first for first in described)) == []
