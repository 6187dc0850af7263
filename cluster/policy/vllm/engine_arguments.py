"""Which arguments vLLM's engine takes, as its source says: importing vLLM takes seconds."""

import ast
import difflib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

_DECLARED_IN = {
    "engine/arg_utils.py": ("EngineArgs", "AsyncEngineArgs"),
    "entrypoints/launchers/cli_args.py": ("BaseFrontendArgs", "FrontendArgs"),
}
"""The classes whose fields Ray Serve LLM takes for arguments, by their files in vLLM; read in vLLM 0.29."""


def known_arguments() -> frozenset[str] | None:
    """Names of all arguments. None where vLLM is not here, or has them elsewhere: it will say itself."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return None
    found: set[str] = set()
    for file, names in _DECLARED_IN.items():
        try:
            module = ast.parse((Path(package.origin).parent / file).read_bytes())
        except (OSError, SyntaxError):
            return None
        classes = {part.name: part for part in module.body if isinstance(part, ast.ClassDef)}
        for name in names:
            if name not in classes or not _bases_of(classes[name]) <= set(names):
                return None
            found |= _fields_of(classes[name])
    return frozenset(found)


def describe_unknown(arguments: Iterable[str]) -> str | None:
    """What is wrong with the first argument that vLLM does not take; None if it takes all."""
    asked = list(arguments)
    known = known_arguments() if asked else None
    if known is None:
        return None
    unknown = [name for name in asked if name not in known]
    if not unknown:
        return None
    meant = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {meant[0]!r}?" if meant else "vLLM's documentation lists those that there are"
    return f"policy.engine has {unknown[0]!r}, which is no argument of vLLM's engine: {hint}"


def _bases_of(declared: ast.ClassDef) -> set[str]:
    return {ast.unparse(base) for base in declared.bases}


def _fields_of(declared: ast.ClassDef) -> set[str]:
    annotated = (part.target for part in declared.body if isinstance(part, ast.AnnAssign))
    return {target.id for target in annotated if isinstance(target, ast.Name)}
