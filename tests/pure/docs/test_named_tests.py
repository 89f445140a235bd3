"""Each test that a page names, as the one that shows what the page says, exists."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.harness.pages import PAGES
from tests.harness.parsing import parsed
from tests.harness.repository import REPOSITORY

NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_tests_that_pages_name_exist() -> None:
    named: defaultdict[str, set[str]] = defaultdict(set)
    for page in PAGES:
        for path, name in NAMED.findall(page.read_text()):
            named[path] |= {name} - {""}
    assert len(named) > 10
    missing = {path: sorted(names - functions(path)) for path, names in named.items()}
    assert {path: names for path, names in missing.items() if names} == {}


def functions(path: str) -> set[str]:
    tree = parsed(REPOSITORY / path)
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
