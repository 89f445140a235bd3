"""Whether a worker's connections are up and its queues are consumed, and if not, why: an area of its slot.

The area has a place for each connection in `LINKS`, then one for each place in the directory of handlers. First come
the heads of all places, of 16 bytes each, then their texts, of 496 bytes each; an empty text takes no memory. A head:

    field      size    meaning
    -----      ----    -------
    state      1       a `LinkState` or `QueueState`; 0 while nothing is known
    length     2       of the text in bytes: UTF-8, for a connection that is up its broker, else the reason
    since      8       the instant at which the state began

The state is written last, after it was set to 0, so a reader never sees a state with the text of another one. As every
reader of a slot, this one tolerates any bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from mxworker.board.layout import CONDITION_BYTES, CONDITIONS
from mxworker.system.printable import head, one_line, printable, well_formed

LINKS = ("consume", "publish")
"""The roles of the connections that have an entry, in the order of their entries."""

_HEAD = struct.Struct("<BxHxxxxQ")
_TEXT_BYTES = CONDITION_BYTES - _HEAD.size


class LinkState(IntEnum):
    """The state of a connection. The number is what stands in the board."""

    UP = 1
    DOWN = 2
    BLOCKED = 3
    """The connection is up, and the broker takes no publishes."""


class QueueState(IntEnum):
    """Whether a worker consumes a queue. The number is what stands in the board."""

    CONSUMED = 1
    PAUSED = 2
    WAITING = 3
    """It is not consumed, and tried again."""
    STOPPED = 4
    """It is not consumed until somebody acts."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of the area."""

    state: int
    why: str
    since_ns: int


class Conditions:
    """The area of one slot."""

    def __init__(self, view: memoryview) -> None:
        """Use `view`, of CONDITIONS places; all zero means that nothing is known."""
        self._heads = view[: CONDITIONS * _HEAD.size]
        self._texts = view[CONDITIONS * _HEAD.size :]

    def clear(self) -> None:
        """Forget all conditions."""
        self._heads[:] = bytes(len(self._heads))

    def write(self, place: int, state: int, why: str, since_ns: int) -> None:
        """Write the condition at `place`. A place beyond the last is ignored."""
        if place >= CONDITIONS:
            return
        at, text_at = place * _HEAD.size, place * _TEXT_BYTES
        raw = head(well_formed(why), _TEXT_BYTES).encode()
        self._heads[at] = 0
        self._texts[text_at : text_at + len(raw)] = raw
        _HEAD.pack_into(self._heads, at, 0, len(raw), since_ns)
        self._heads[at] = state

    def read(self, place: int) -> Condition | None:
        """Return the condition at `place`, None while nothing is known."""
        state, length, since_ns = _HEAD.unpack_from(self._heads, place * _HEAD.size)
        if not state:
            return None
        text_at = place * _TEXT_BYTES
        raw = bytes(self._texts[text_at : text_at + min(length, _TEXT_BYTES)])
        return Condition(state, printable(one_line(raw.decode("utf-8", "replace"))), since_ns)
