"""Pick the frames of the application out of a stack: of the 40 frames of a handler, they may be two.

A stack is a list of frames in this process, or a text of faulthandler from another process.
"""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import FrameType

from mxworker.system.printable import foreign, head, printable

OUR_FOLDER = f"{os.path.dirname(os.path.dirname(__file__))}/"  # noqa: PTH120 - as the file names of code objects are
"""The directory with the code of mxworker."""
_MOST_FRAMES = 1000  # the innermost are kept; only a deep recursion has more
_SOURCE_BYTES = 100
_MACHINERY_FRAMES_SHOWN = 5  # for a crash whose stack has no other frames

_STANDARD_LIBRARY = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/")
_MACHINERY_OF_PYTHON = (
    "asyncio/",
    "concurrent/",
    "importlib/",
    "contextlib.py",
    "runpy.py",
    "selectors.py",
    "threading.py",
)
COMPILED_LOOP = "uvloop/"
"""What the names of uvloop's source files begin with, in frames of its compiled code."""
_MACHINERY = (
    OUR_FOLDER,
    COMPILED_LOOP,
    *(root + name for root in _STANDARD_LIBRARY for name in _MACHINERY_OF_PYTHON),
)
_MACHINERY_INSTALLED = tuple(f"{folder}{name}/" for folder in _INSTALLED for name in ("click", "uvloop"))
_OWN_COMMAND = "/bin/mxworker"

_FRAME_IN_TEXT = re.compile(r'  File "(.*)", line ')


class Part(Enum):
    """Whose code it is."""

    APPLICATION = auto()
    LIBRARY = auto()
    """The standard library, or an installed package, which may also be the application."""
    MACHINERY = auto()
    """The code in every stack of a worker: mxworker, the event loop, and what started them."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a frame in the source."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        """Return `file:line function`, printable."""
        return foreign(f"{self.filename}:{self.line} {self.function}")

    @property
    def source(self) -> str:
        """The line of code, shortened; "" when the file cannot be read."""
        return head(printable(linecache.getline(self.filename, self.line).strip()), _SOURCE_BYTES)


def part_of(filename: str) -> Part:
    """Return whose code a file holds."""
    if filename.startswith((*_MACHINERY, "<frozen ")) or filename.endswith(_OWN_COMMAND):
        return Part.MACHINERY
    if any(folder in filename for folder in _INSTALLED):
        return Part.MACHINERY if any(name in filename for name in _MACHINERY_INSTALLED) else Part.LIBRARY
    return Part.LIBRARY if filename.startswith((*_STANDARD_LIBRARY, "<")) else Part.APPLICATION


def frames_of(frame: FrameType | None) -> list[FrameType]:
    """Return `frame` and its callers, at most the innermost 1000, with `frame` last."""
    frames: list[FrameType] = []
    while frame is not None and len(frames) < _MOST_FRAMES:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def places_of(frames: Sequence[FrameType]) -> list[Place]:
    """Return the places of frames."""
    return [Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames]


def telling(places: Sequence[Place]) -> list[Place]:
    """Return the places outside the machinery, or all places when there are no others."""
    return [place for place in places if part_of(place.filename) is not Part.MACHINERY] or list(places)


def innermost(places: Sequence[Place]) -> Place | None:
    """Return the innermost place in the application, or else in a library, or else in the machinery."""
    for part in Part:
        for place in reversed(places):
            if part_of(place.filename) is part:
                return place
    return None


def readable(report: str) -> str:
    """Return a faulthandler report with the faulting thread first, without machinery frames and waiting threads."""
    title, *threads = report.split("\n\n")
    threads.sort(key=lambda thread: not thread.startswith("Current thread"))
    told = [_without_machinery(thread, is_first=number == 0) for number, thread in enumerate(threads)]
    return "\n\n".join([title, *filter(None, told)])


def _without_machinery(thread: str, is_first: bool) -> str:
    heading, *lines = thread.rstrip("\n").split("\n")
    if not any(map(_FRAME_IN_TEXT.match, lines)):
        return thread  # this is the list of modules at the end, or no Python stack
    kept = [line for line in lines if not _is_machinery(line)]
    if not any(map(_FRAME_IN_TEXT.match, kept)):
        if not is_first:
            return ""
        kept = lines[:_MACHINERY_FRAMES_SHOWN]
    left_out = len(lines) - len(kept)
    note = [f"  ({left_out} frames of mxworker and the event loop are left out)"] if left_out else []
    return "\n".join([heading, *kept, *note])


def _is_machinery(line: str) -> bool:
    frame = _FRAME_IN_TEXT.match(line)
    return frame is not None and part_of(frame[1]) is Part.MACHINERY
