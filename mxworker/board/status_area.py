"""The status of the service on the board: the master writes it, and the observer reads it.

The area has two halves, and the master writes them in turn, so that a reader always finds one that is whole:

    field     size     meaning
    -----     ----     -------
    number    8        of this status, counted from 1; 0 while the half was never written
    at        8        the instant of the status
    length    8        of the text in bytes
    sum       8        CRC-32 of the other fields: a half that is being written does not fit its sum
    text      the rest

This module does not know what the text says.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_HEAD = struct.Struct("<QQQ")
_SUM = struct.Struct("<Q")
_TEXT_AT = _HEAD.size + _SUM.size
_HALF_BYTES = 1024 * 1024  # 513 workers take 300 kB; pages that were never written take no memory
STATUS_AREA_BYTES = 2 * _HALF_BYTES
TEXT_BYTES = _HALF_BYTES - _TEXT_AT


@dataclass(frozen=True, slots=True)
class Written:
    """One status: its number, the instant at which it was written, and its text."""

    number: int
    at_ns: int
    text: bytes


class StatusArea:
    """The area. One process writes to it; any number of processes read it."""

    def __init__(self, view: memoryview) -> None:
        """Use `view`, of STATUS_AREA_BYTES bytes; all zero means that there is no status yet."""
        self._halves = (view[:_HALF_BYTES], view[_HALF_BYTES:])
        self._number = 0

    def write(self, text: bytes, now_ns: int) -> None:
        """Write a status. A text that is too long is left out: readers then get an empty one."""
        self._number += 1
        half = self._halves[self._number % 2]
        if len(text) > TEXT_BYTES:
            text = b""
        head = _HEAD.pack(self._number, now_ns, len(text))
        half[_TEXT_AT : _TEXT_AT + len(text)] = text
        half[:_TEXT_AT] = head + _SUM.pack(zlib.crc32(text, zlib.crc32(head)))

    def read(self) -> Written | None:
        """Return the newest status that is whole; None while there is none."""
        found = filter(None, map(_whole, self._halves))
        return max(found, key=lambda written: written.number, default=None)


def _whole(half: memoryview) -> Written | None:
    head = bytes(half[: _HEAD.size])
    number, at_ns, length = _HEAD.unpack(head)
    if not number or length > TEXT_BYTES:
        return None
    text = bytes(half[_TEXT_AT : _TEXT_AT + length])
    (checksum,) = _SUM.unpack_from(half, _HEAD.size)
    return Written(number, at_ns, text) if zlib.crc32(text, zlib.crc32(head)) == checksum else None
