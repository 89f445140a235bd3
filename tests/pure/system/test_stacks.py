"""What is shown of a stack is the application's, wherever that is installed; machinery is left out."""

from __future__ import annotations

import asyncio
import json
import sys
import sysconfig
from pathlib import Path

import click
import pytest

import mxworker
from mxworker.system.stacks import Part, Place, frames_of, innermost, part_of, places_of, readable, telling
from mxworker.worker.handling import dispatcher

INSTALLED = "/opt/shop/lib/python3.11/site-packages/shop/app.py"
STDLIB = sysconfig.get_path("stdlib")


@pytest.mark.parametrize(
    ("filename", "part"),
    [
        ("/srv/shop/app.py", Part.APPLICATION),
        ("app.py", Part.APPLICATION),
        ("/srv/asyncio/threading.py", Part.APPLICATION),
        (__file__, Part.APPLICATION),
        (INSTALLED, Part.LIBRARY),
        ("/usr/lib/python3/dist-packages/requests/api.py", Part.LIBRARY),
        (json.__file__, Part.LIBRARY),
        ("<string>", Part.LIBRARY),
        (mxworker.__file__, Part.MACHINERY),
        (dispatcher.__file__, Part.MACHINERY),
        (asyncio.__file__, Part.MACHINERY),
        (f"{STDLIB}/threading.py", Part.MACHINERY),
        (click.__file__, Part.MACHINERY),
        ("<frozen runpy>", Part.MACHINERY),
        ("/srv/.venv/bin/mxworker", Part.MACHINERY),
    ],
)
def test_code_is_told_apart_by_its_file(filename: str, part: Part) -> None:
    assert part_of(filename) is part


def test_innermost_line_of_the_application_is_the_one_to_look_at() -> None:
    ours, app, library = (
        Place(dispatcher.__file__, 1, "run"),
        Place("/srv/app.py", 2, "f"),
        Place(json.__file__, 3, "g"),
    )
    installed = Place(INSTALLED, 4, "h")
    assert innermost([ours, app, library, ours]) is app
    assert innermost([ours, app, app, library]) is app
    assert innermost([ours, library, installed, ours]) is installed
    assert innermost([ours]) is ours
    assert innermost([]) is None
    assert telling([ours, app, library, ours]) == [app, library]
    assert telling([ours]) == [ours]


def test_frames_are_places_with_their_source() -> None:
    place = places_of(frames_of(sys._getframe()))[-1]
    assert (place.filename, place.function) == (__file__, "test_frames_are_places_with_their_source")
    assert place.source == "place = places_of(frames_of(sys._getframe()))[-1]"
    assert Place("/nowhere.py", 1, "f").source == ""
    assert frames_of(None) == []


def test_file_may_be_called_anything_and_is_named_on_one_line() -> None:
    assert str(Place("/a\n\x1b.py", 1, "f\u202e")) == "/a\\x0a\\x1b.py:1 f\\x202e"


def test_endless_recursion_is_looked_at_up_to_a_bound() -> None:
    def deeper(depth: int) -> int:
        return deeper(depth - 1) if depth else len(frames_of(sys._getframe()))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    try:
        assert deeper(2000) == 1000
    finally:
        sys.setrecursionlimit(limit)


def stack(*filenames: str) -> str:
    return "\n".join(f'  File "{filename}", line {number} in f' for number, filename in enumerate(filenames, start=1))


def test_report_of_a_crash_has_the_thread_at_fault_first_and_no_machinery() -> None:
    report = (
        "Fatal Python error: Aborted\n\n"
        f"Thread 0x1 (most recent call first):\n{stack(f'{STDLIB}/threading.py', '/srv/other.py')}\n\n"
        f"Thread 0x3 (most recent call first):\n{stack(f'{STDLIB}/threading.py')}\n\n"
        f"Current thread 0x2 (most recent call first):\n{stack(json.__file__, '/srv/app.py', dispatcher.__file__)}\n\n"
        "Extension modules: a, b (total: 2)\n"
    )
    title, current, other, modules = readable(report).split("\n\n")
    assert title == "Fatal Python error: Aborted"
    assert current.splitlines() == [
        "Current thread 0x2 (most recent call first):",
        f'  File "{json.__file__}", line 1 in f',
        '  File "/srv/app.py", line 2 in f',
        "  (1 frames of mxworker and the event loop are left out)",
    ]
    assert '/srv/other.py", line 2' in other
    assert "threading.py" not in other
    assert modules.startswith("Extension modules: a, b")


def test_crash_in_machinery_shows_its_innermost_frames() -> None:
    report = f"Fatal\n\nCurrent thread 0x2 (most recent call first):\n{stack(*[dispatcher.__file__] * 20)}\n"
    assert readable(report).count("dispatcher.py") == 5
    assert "15 frames" in readable(report)


@pytest.mark.parametrize("report", ["", "Fatal Python error: Aborted", "a\n\nb\n\nc", "Fatal\n\n<no Python frame>\n"])
def test_report_without_stacks_is_left_as_it_is(report: str) -> None:
    assert readable(report).split() == report.split()


def test_place_of_mxworker_is_known_however_it_was_started() -> None:
    assert part_of(str(Path(mxworker.__file__).with_name("__main__.py"))) is Part.MACHINERY
