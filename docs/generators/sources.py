"""What an import of a module loses: the texts below its attributes and constants, and its annotations as written."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(Path(import_module(module).__file__ or "").read_text())


def definition_of(module: str, name: str) -> tuple[ast.stmt, str]:
    """Return where a module defines a name, and the text about it: a docstring, or the text below a constant."""
    for node, text in described(tree_of(module).body):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name == name:
                    return node, ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=assigned)]) | ast.AnnAssign(target=ast.Name(id=assigned)):
                if assigned == name:
                    return node, text
    raise LookupError(f"{module} does not define {name}")


def described(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each statement with the text that stands alone below it, or nothing."""
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node, " ".join(text.split())
            case _:
                yield node, ""


def members_of(module: str, enum: str) -> list[tuple[str, str]]:
    """Return the values of an enumeration of texts, each with the text below it."""
    definition, _ = definition_of(module, enum)
    assert isinstance(definition, ast.ClassDef)
    return [
        (str(node.value.value), text)
        for node, text in described(definition.body)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
