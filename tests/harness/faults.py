"""What can be broken on a wire, as values: directions, ways to cut, actions on frames, rules, and what is in force now.

Pure but for the gates, which are events of the proxy's loop. Knows no sockets.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.harness.frames import BODY, HEADER, Frame, MethodId, describe

_TRACE_ENTRIES = 400


class Direction(Enum):
    """Which way bytes go."""

    TO_BROKER = "client -> broker"
    TO_CLIENT = "broker -> client"


TO_BROKER = Direction.TO_BROKER
TO_CLIENT = Direction.TO_CLIENT


class How(Enum):
    """How a cut looks to both peers."""

    RST = "rst"
    FIN = "fin"


class Arrival(Enum):
    """What happens to a new connection."""

    PASS = auto()
    REFUSE = auto()  # nobody listens: ECONNREFUSED, and the proxy does not see the attempt
    RESET = auto()  # accepted, counted, reset at once
    MUTE = auto()  # accepted, read, never answered


Action = Callable[[Frame], bytes]


def drop(frame: Frame) -> bytes:
    """Let the frame vanish."""
    return b""


def replace(raw: bytes) -> Action:
    """Send `raw` in place of the frame."""
    return lambda frame: raw


def before(raw: bytes) -> Action:
    """Send `raw`, then the frame."""
    return lambda frame: raw + frame.raw


def after(raw: bytes) -> Action:
    """Send the frame, then `raw`."""
    return lambda frame: frame.raw + raw


def damage_end(frame: Frame) -> bytes:
    """Send the frame with a wrong end octet."""
    return frame.raw[:-1] + b"\x00"


def damage_kind(frame: Frame) -> bytes:
    """Send the frame with a type octet that AMQP does not have."""
    return b"\x7f" + frame.raw[1:]


def oversize(frame: Frame) -> bytes:
    """Send the frame with a size field of 4 GiB."""
    return frame.raw[:3] + b"\xff\xff\xff\xff" + frame.raw[7:]


def truncate(frame: Frame) -> bytes:
    """Send the first half of the frame; what follows is then read as its second half."""
    return frame.raw[: len(frame.raw) // 2]


@dataclass(slots=True, eq=False)
class Rule:
    """Which frames of a direction an action is done to. `hits` counts those frames, their content not included."""

    direction: Direction
    method: MethodId | None
    action: Action
    content: bool
    skip: int
    times: int | None
    hits: int = 0

    def takes(self, frame: Frame) -> bool:
        """Say whether the action is to be done to this frame, and count it."""
        if self.method is not None and (frame.method != self.method or frame.kind in (HEADER, BODY)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.hits == self.times:
            return False
        self.hits += 1
        return True


@dataclass(slots=True, eq=False)
class Cut:
    """A cut that comes when `remaining_bytes` more went in its direction."""

    direction: Direction
    remaining_bytes: int
    how: How
    happened: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """In which pieces, how late and how fast bytes are written."""

    slice_bytes: tuple[int, int] | None = None
    delay_s: float = 0.0
    bytes_per_s: float | None = None

    def pieces(self, data: bytes, rng: random.Random) -> Iterator[bytes]:
        """Yield `data` in the pieces it is to be written in."""
        smallest, largest = self.slice_bytes or (len(data), len(data))
        if self.bytes_per_s and not self.slice_bytes:
            smallest = largest = max(1, int(self.bytes_per_s / 20))  # 50 ms each: even, and few enough to be cheap
        start = 0
        while start < len(data):
            end = start + rng.randint(smallest, largest)
            yield data[start:end]
            start = end


class Trace:
    """The last events of a proxy. A frame is put into words only when somebody reads."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int, str | tuple[str, int, int, MethodId | None, int, str]]] = deque(
            maxlen=_TRACE_ENTRIES
        )
        self._start_at = time.monotonic()

    def note(self, link: int, text: str) -> None:
        """Add an event; `link` is the number of the connection, 0 for all."""
        self._entries.append((time.monotonic(), link, text))

    def note_frame(self, link: int, direction: Direction, frame: Frame, fate: str = "") -> None:
        """Add a frame, and what a rule did to it."""
        facts = (direction.value, frame.kind, frame.channel, frame.method, len(frame.raw), fate)
        self._entries.append((time.monotonic(), link, facts))

    def __str__(self) -> str:
        return "\n".join(
            f"{at - self._start_at:10.4f}  #{link:<3} {_in_words(what)}" for at, link, what in self._entries
        )


def _in_words(what: str | tuple[str, int, int, MethodId | None, int, str]) -> str:
    if isinstance(what, str):
        return what
    direction, kind, channel, method, size_bytes, fate = what
    return f"{direction} {describe(kind, channel, method, size_bytes)} {fate}".rstrip()


@dataclass(slots=True, eq=False)
class Conditions:
    """What is in force on all connections of one proxy, and what they passed."""

    rng: random.Random
    cut_all: Callable[[How], object]
    rules: list[Rule] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    pace: dict[Direction, Pace] = field(default_factory=lambda: dict.fromkeys(Direction, Pace()))
    gates: dict[Direction, asyncio.Event] = field(default_factory=lambda: {way: asyncio.Event() for way in Direction})
    passed_bytes: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))
    trace: Trace = field(default_factory=Trace)

    def allowance(self, direction: Direction, size_bytes: int) -> int:
        """Return how many of `size_bytes` may be written before a cut is due."""
        return min([size_bytes, *(cut.remaining_bytes for cut in self.cuts if cut.direction is direction)])

    def spend(self, direction: Direction, size_bytes: int) -> None:
        """Count what was written, and do the cuts that are due."""
        self.passed_bytes[direction] += size_bytes
        for cut in [cut for cut in self.cuts if cut.direction is direction]:
            cut.remaining_bytes -= size_bytes
            if cut.remaining_bytes <= 0:
                self.cuts.remove(cut)
                cut.happened = True
                self.cut_all(cut.how)
