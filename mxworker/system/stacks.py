"""What of a stack is the application's, and so worth a reader's time: of a handler's 40 frames it may be two.

Knows stacks as frames of this process, and as the text of faulthandler, for those of another.
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
"""Where the code of mxworker is."""
_MOST_FRAMES = 1000  # looked at: a recursion has more, of which the innermost count
_SOURCE_BYTES = 100
_MACHINERY_FRAMES_SHOWN = 5  # of a crash in which nothing else is seen

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
_MACHINERY = (
    OUR_FOLDER,
    *(root + name for root in _STANDARD_LIBRARY for name in _MACHINERY_OF_PYTHON),
)
_MACHINERY_INSTALLED = tuple(f"{folder}{name}/" for folder in _INSTALLED for name in ("click", "uvloop"))
_OWN_COMMAND = "/bin/mxworker"

_FRAME_IN_TEXT = re.compile(r'  File "(.*)", line ')


class Part(Enum):
    """Whose code it is."""

    APPLICATION = auto()
    LIBRARY = auto()
    """The standard library, or a package that was installed, which may be the application as well."""
    MACHINERY = auto()
    """What every stack of a worker has: ours, the event loop's, and what started them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame is."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        """Return it in the usual notation."""
        return foreign(f"{self.filename}:{self.line} {self.function}")

    @property
    def source(self) -> str:
        """The line of code, shortened; "" when it cannot be read."""
        return head(printable(linecache.getline(self.filename, self.line).strip()), _SOURCE_BYTES)


def part_of(filename: str) -> Part:
    """Say whose code a file holds."""
    if filename.startswith((*_MACHINERY, "<frozen ")) or filename.endswith(_OWN_COMMAND):
        return Part.MACHINERY
    if any(folder in filename for folder in _INSTALLED):
        return Part.MACHINERY if any(name in filename for name in _MACHINERY_INSTALLED) else Part.LIBRARY
    return Part.LIBRARY if filename.startswith((*_STANDARD_LIBRARY, "<")) else Part.APPLICATION


def frames_of(frame: FrameType | None) -> list[FrameType]:
    """Return a frame with those that called it, at most 1000, the innermost, which is `frame`, last."""
    frames: list[FrameType] = []
    while frame is not None and len(frames) < _MOST_FRAMES:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def places_of(frames: Sequence[FrameType]) -> list[Place]:
    """Return where frames are."""
    return [Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames]


def telling(places: Sequence[Place]) -> list[Place]:
    """Return the places that tell a reader what went on: all but machinery, or all when there is nothing else."""
    return [place for place in places if part_of(place.filename) is not Part.MACHINERY] or list(places)


def innermost(places: Sequence[Place]) -> Place | None:
    """Return the line of the application that was reached last, or what comes nearest to that."""
    for part in Part:
        for place in reversed(places):
            if part_of(place.filename) is part:
                return place
    return None


def readable(report: str) -> str:
    """Return a report of faulthandler with the thread at fault first, and without machinery and threads that wait."""
    title, *threads = report.split("\n\n")
    threads.sort(key=lambda thread: not thread.startswith("Current thread"))
    told = [_without_machinery(thread, is_first=number == 0) for number, thread in enumerate(threads)]
    return "\n\n".join([title, *filter(None, told)])


def _without_machinery(thread: str, is_first: bool) -> str:
    heading, *lines = thread.rstrip("\n").split("\n")
    if not any(map(_FRAME_IN_TEXT.match, lines)):
        return thread  # the list of modules at the end, or what is no stack of Python
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
