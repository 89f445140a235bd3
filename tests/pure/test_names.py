"""Modules, classes and log events are called by the field's words, not by our own metaphors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.parsing import parsed
from tests.harness.repository import REPOSITORY

RULED_OUT = (
    "desk",
    "station",
    "room",
    "guard",
    "inquest",
    "obituary",
    "turns",
    "standing order",
    "obedience",
    "stock",
    "lane",
    "parking",
    "blame",
    "premises",
    "equipment",
    "surroundings",
    "terms",
    "kill switch",
)
KEPT = {"isolation_turns": "the turns in which workers run suspects alone; the design has decided for this name"}
FOLDERS = ("mxworker", "tests", "handlers_example", "bench", "docs")


def parts(name: str) -> str:
    """Return the words of a name with a blank around each: `StandingOrders` is ` standing orders `."""
    return f" {re.sub(r'(?<=[a-z0-9])(?=[A-Z])|_', ' ', name).lower().strip()} "


def faults(name: str) -> list[str]:
    """Return the ruled-out words in a name, in the singular or plural."""
    words = parts(name)
    for kept in KEPT:
        words = words.replace(parts(kept), " ")
    forms = {word: (word, f"{word}s", f"{word[:-1]}ies") for word in RULED_OUT}
    return [word for word, several in forms.items() if any(f" {form} " in words for form in several)]


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def names() -> Iterator[tuple[str, str]]:
    """Yield each name of a folder, a module, a class and a log event, with the module where it stands."""
    for path in modules():
        place = path.relative_to(REPOSITORY)
        for part in place.with_suffix("").parts:
            yield str(place), part.removeprefix("test_")
        for node in ast.walk(parsed(path)):
            match node:
                case ast.ClassDef(name=name):
                    yield str(place), name
                case ast.Call(func=ast.Name(id="log_event"), args=[ast.Constant(value=str(name))]):
                    yield str(place), name


def test_no_name_is_one_of_our_metaphors() -> None:
    assert [f"{place}: {name}" for place, name in names() if faults(name)] == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("ControlDesk", "desk"),
        ("stations", "station"),
        ("Obituaries", "obituary"),
        ("standing_orders", "standing order"),
        ("KillSwitch", "kill switch"),
        ("decode_room", "room"),
        ("turns", "turns"),
    ],
)
def test_a_metaphor_is_found_in_any_spelling(name: str, fault: str) -> None:
    assert faults(name) == [fault]


@pytest.mark.parametrize("name", ["IsolationTurns", "isolation_turns", "mushroom", "safeguard", "plane", "returns"])
def test_a_word_that_only_looks_so_is_not(name: str) -> None:
    assert faults(name) == []


@pytest.mark.parametrize("name", sorted(KEPT))
def test_what_is_kept_is_there(name: str) -> None:
    assert name in {path.stem for path in modules()}
