"""Whether a chat template reads a message's content as one text or as a list of parts, as vLLM tells."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import jinja2.nodes as nodes
from jinja2 import TemplateError as JinjaError

ContentFormat: TypeAlias = Literal["string", "openai"]
"""`string`: one text. `openai`: a list of parts, `{"type": "text", "text": …}` of a text."""


@lru_cache(maxsize=64)
def detect_content_format(template: str) -> ContentFormat:
    """The form in which vLLM hands content to a template (its `--chat-template-content-format auto`).

    It is that of parts where the template goes through a message's content in a loop.

    Args:
        template: The template's Jinja text.
    """
    from transformers.utils import chat_template_utils

    compiling: Any = chat_template_utils
    try:
        environment: Any = compiling._compile_jinja_template(template).environment
        tree: nodes.Template = environment.parse(template)
    except JinjaError:
        return "string"
    return "openai" if any(_loops_over_content(tree)) else "string"


def _loops_over_content(tree: nodes.Template) -> Iterator[bool]:
    messages = [name for name in _message_names(tree)]
    for loop in tree.find_all(nodes.For):
        if isinstance(loop.iter, nodes.Name) and loop.iter.name == "content":
            yield True
        for name in messages:
            if _accesses_variable(loop.iter, name, "content"):
                yield True


def _message_names(tree: nodes.Template) -> Iterator[str]:
    """Names of the loop variables that stand for one message."""
    lists = list(_names_of(tree, "messages"))
    for loop in tree.find_all(nodes.For):
        if isinstance(loop.target, nodes.Name) and any(_accesses_variable(loop.iter, name) for name in lists):
            yield loop.target.name


def _names_of(tree: nodes.Template, name: str) -> Iterator[str]:
    """A variable's name, and those that it, or a part of it, is assigned to."""
    waiting, seen = [name], {name}
    while waiting:
        current = waiting.pop(0)
        yield current
        for assignment in tree.find_all(nodes.Assign):
            target = assignment.target
            if not isinstance(target, nodes.Name) or target.name in seen:
                continue
            if _accesses_variable(assignment.node, current):
                seen.add(target.name)
                waiting.append(target.name)


def _accesses_variable(node: nodes.Node, name: str, key: str | None = None) -> bool:
    """Whether an expression is a variable, or its attribute `key`, filtered, tested or sliced or not."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return node.node is not None and _accesses_variable(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _accesses_variable(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return (
            _accesses_variable(node.node, name)
            and isinstance(node.arg, nodes.Const)
            and node.arg.value == key
        )
    return isinstance(node, nodes.Getattr) and _accesses_variable(node.node, name) and node.attr == key
