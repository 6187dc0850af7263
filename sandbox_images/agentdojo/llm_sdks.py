"""Placeholders for the LLM SDKs that AgentDojo imports and a sandbox has no use for.

`import agentdojo` imports the SDKs of four LLM vendors. In a container without a network they can't do
anything, but they are nine tenths of the image's packages (26 MB without them, 262 MB with), most of the
time a sandbox takes to come up (1.5 s against 4 to 8) and most of what every fork has to copy (58 MB
against 227). AgentDojo's own clients of LLMs, and `requests`, with which it asks a local one for its name,
are another 5 MB. Nothing of AgentDojo's suites, tools, attacks or checks touches them.
"""

import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_SDK_PACKAGES = frozenset({"anthropic", "cohere", "google", "openai", "requests", "vertexai"})
_CLIENTS = "agentdojo.agent_pipeline.llms."
_CONSTANTS = {f"{_CLIENTS}google_llm": {"EMPTY_FUNCTION_NAME": "<empty-function-name>"}}
"""What AgentDojo's tool executor compares names of tools with."""


class _AnyAttributeMeta(type):
    """The metaclass of classes with every attribute: annotations and `except` clauses can name them."""

    def __getattr__(cls, name: str) -> "_AnyAttributeMeta":
        return _placeholder(name)


def _placeholder(name: str) -> _AnyAttributeMeta:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyAttributeMeta(name, (Exception,), {})


class _PlaceholderModules(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _SDK_PACKAGES and not fullname.startswith(_CLIENTS):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _placeholder  # pyright: ignore[reportAttributeAccessIssue] - a module may have one (PEP 562)
        return module

    def exec_module(self, module: Any) -> None:
        """Gives a module the constants that AgentDojo's own code needs of it; nothing is executed."""
        for name, value in _CONSTANTS.get(module.__name__, {}).items():
            setattr(module, name, value)


def install_placeholders() -> None:
    """Has every later import of an SDK find a placeholder. To be called before agentdojo is imported."""
    sys.meta_path.insert(0, _PlaceholderModules())
