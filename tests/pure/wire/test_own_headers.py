"""The headers of mxworker are named in one module, which has all that are written and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mxworker
from docs.generators.headers import page
from mxworker.board.suspects import Death, Suspect
from mxworker.wire import origins, own_headers
from mxworker.wire.own_headers import OwnHeader
from mxworker.worker.handling.copies import Facts, KillFacts
from tests.harness.parsing import parsed

PACKAGE = Path(mxworker.__file__).parent
GROUPS = {
    name: {header.name for header in value}
    for name, value in vars(own_headers).items()
    if isinstance(value, tuple) and all(isinstance(each, OwnHeader) for each in value)
}
FACTS = Facts("orders", "order", 4, "failed", "ValueError", "no such order", 1_722_470_400)


def kill_facts(status: int) -> dict[str, object]:
    last = Death(status=status, is_hang=False, at_s=1_722_470_400, uptime_s=1.5, peak_rss_bytes=1)
    return KillFacts("orders", "order", 1, Suspect(3, True, 1, last), "").headers()


def test_headers_of_dead_letters_are_those_that_are_written() -> None:
    assert set(FACTS.headers()) == GROUPS["OF_DEAD_LETTERS"]


def test_headers_of_the_quarantine_are_those_that_are_written() -> None:
    written = {*kill_facts(-9), *kill_facts(1)}
    assert written == GROUPS["OF_DEAD_LETTERS"] | GROUPS["OF_QUARANTINE"]


def test_each_name_is_in_one_group() -> None:
    names = {
        value
        for constant, value in vars(own_headers).items()
        if constant.endswith("_HEADER") and isinstance(value, str)
    }
    assert sorted(names) == sorted(name for group in GROUPS.values() for name in group)


def test_no_other_module_spells_a_name() -> None:
    modules = {path for path in PACKAGE.rglob("*.py") if "mx-" in path.read_text()} - {Path(own_headers.__file__)}
    assert [(path.name, text) for path in sorted(modules) for text in names_in(path)] == []


def names_in(path: Path) -> list[str]:
    constants = (node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant))
    texts = (each.decode("latin-1") if isinstance(each, bytes) else each for each in constants)
    return [text for text in texts if isinstance(text, str) and re.fullmatch(r"mx-[a-z-]*[a-z]", text)]


def test_the_page_names_the_headers_that_move() -> None:
    moved = {name.decode() for name in origins.MOVED_HEADERS} | {f"{name.decode()}*" for name in origins.MOVED_FAMILIES}
    assert {name for name in moved if f"`{name}`" not in page()} == set()
