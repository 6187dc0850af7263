"""Mistakes in hidden tests that their text alone shows, so that no submission has a part in them."""

import ast
import builtins
import dis
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from sandbox_images.shell.subject import Subject

_OF_A_SUBJECT = {name for name in dir(Subject) if not name.startswith("_")} | {"output", "expected"}
_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}


def find_mistake(source: str, names: Mapping[str, Any]) -> str | None:
    """What is wrong with hidden tests, whatever they are run on; None where nothing is seen to be.

    Args:
        source: Their text.
        names: What it has defined.
    """
    own = [value for value in names.values() if isinstance(value, FunctionType)]
    own = [function for function in own if function.__globals__ is names]
    codes = [code for function in own for code in _iterate_codes(function.__code__)]
    known = {*names, *dir(builtins)}
    for code in codes:
        known |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}
    for code in codes:
        for step in dis.get_instructions(code):
            if step.opname in _GLOBAL and step.argval not in known:
                return f"{code.co_name} uses {step.argval}, which is nowhere defined"
    return next(_unknown_attributes(source), None)


def _iterate_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _iterate_codes(constant)


def _unknown_attributes(source: str) -> Iterator[str]:
    for test in ast.parse(source).body:
        if not (isinstance(test, ast.FunctionDef) and test.name.startswith("test_") and test.args.args):
            continue
        subject = test.args.args[0].arg
        used = [
            node
            for node in ast.walk(test)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == subject
        ]
        rebound = any(
            isinstance(node, ast.Name) and node.id == subject and isinstance(node.ctx, ast.Store)
            for node in ast.walk(test)
        )
        given = {node.attr for node in used if isinstance(node.ctx, ast.Store)}
        for node in used:
            if not rebound and node.attr not in _OF_A_SUBJECT | given and not node.attr.startswith("_"):
                has = ", ".join(sorted(_OF_A_SUBJECT - {"asked"}))
                yield f"{test.name}, line {node.lineno}: a subject has no {node.attr}; it has {has}"
