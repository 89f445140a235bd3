"""docs/internals.md names functions that exist, one for each of its steps, and every room of the house."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mxworker
from tests.harness.parsing import parsed

PACKAGE = Path(mxworker.__file__).parent
PAGE = PACKAGE.parent / "docs" / "internals.md"
NAMED = re.compile(r"`(?P<path>[a-z_/]+\.py): (?P<name>[A-Za-z_.]+)`")
STEP = re.compile(r"^\d+\. ", re.MULTILINE)
MODULE = re.compile(r"`(?P<path>[a-z_]+(?:/[a-z_]+)*/?(?:\.py)?)`")

named = [(found["path"], found["name"]) for found in NAMED.finditer(PAGE.read_text())]


@pytest.mark.parametrize(("path", "name"), dict.fromkeys(named))
def test_function_that_the_page_names_exists(path: str, name: str) -> None:
    source = PACKAGE / path
    assert source.exists(), f"docs/internals.md names {path}, which does not exist"
    assert name in names_in(source), f"docs/internals.md names {name}, which {path} does not have"


def test_every_step_names_its_function() -> None:
    page = PAGE.read_text()
    steps = [step for step in re.split(r"\n(?=\d+\. )", page) if STEP.match(step)]
    assert len(steps) > 30
    assert [step for step in steps if not NAMED.search(step)] == []


def test_each_room_is_on_the_page() -> None:
    rooms = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {"."}
    page = PAGE.read_text()
    assert [room for room in sorted(rooms) if f"`{room}/`" not in page] == []


def names_in(source: Path) -> set[str]:
    """Return the functions, classes and methods of a module, methods as `Class.method`."""
    found = set()
    for node in parsed(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{inner.name}" for inner in methods)
    return found
