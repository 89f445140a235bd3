"""What a handler of a plain `dict` reads from it, by the text of its code: `payload["total"]`, `payload.get("note")`.

An annotation `dict` says nothing about the document, so the code is the only hint. It is read, not run, and followed no
further than one function: what the function passes on is not known. A value is 1, which can be compared and added, or a
text, where a method of texts is called on it.
"""

from __future__ import annotations

import ast
import textwrap
from typing import Any

from mxworker.samples.values import TEXT

_NUMBER = 1
_METHODS_OF_TEXT = frozenset(name for name in dir(str) if name not in dir(int) and name not in dir(dict))

Steps = tuple[str, ...]
"""The keys that lead to a value, from the outermost on."""


def document_read_by(source: str) -> dict[str, Any]:
    """Return a document with the keys that a function reads from its first parameter; {} when there are none.

    `source` is the text of the function, with its decorators; what is no Python reads nothing.
    """
    try:
        function = next(
            node
            for node in ast.walk(ast.parse(textwrap.dedent(source)))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
    except (SyntaxError, ValueError, StopIteration):
        return {}
    parameters = [*function.args.posonlyargs, *function.args.args]
    if not parameters:
        return {}
    document: dict[str, Any] = {}
    for node in ast.walk(function):
        value = TEXT if isinstance(node, ast.Attribute) and node.attr in _METHODS_OF_TEXT else _NUMBER
        steps = _steps(node.value if isinstance(node, ast.Attribute) else node, parameters[0].arg)
        if steps:
            _put(document, steps, value)
    return document


def _steps(node: ast.AST, parameter: str) -> Steps:
    """Return the keys of `parameter["a"]["b"]`, () for all other expressions."""
    match node:
        case ast.Subscript(value=within, slice=ast.Constant(value=str(key)), ctx=ast.Load()):
            pass
        case ast.Call(func=ast.Attribute(value=within, attr="get"), args=[ast.Constant(value=str(key)), *_]):
            pass
        case _:
            return ()
    if isinstance(within, ast.Name) and within.id == parameter:
        return (key,)
    outer = _steps(within, parameter)
    return (*outer, key) if outer else ()


def _put(document: dict[str, Any], steps: Steps, value: Any) -> None:
    """Enter a value, unless a longer chain of keys or a text says more about the same place."""
    *outer, last = steps
    for key in outer:
        inner = document.get(key)
        if not isinstance(inner, dict):
            inner = document[key] = {}
        document = inner
    if last not in document or document[last] == _NUMBER:
        document[last] = value
