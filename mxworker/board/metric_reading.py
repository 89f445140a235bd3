"""Reading the metrics area of a slot: its rows, exchanges and failures, each with its name as it is on the board.

A slot holds what its worker wrote, so any bytes at all, and perhaps a row that is being written. A number that no
worker can have reached by counting is read as 0.

Words are converted without a step in Python for each of them: 32 slots with 50 handlers have 180,000.

Pure, but for the memory it reads.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from mxworker.board import metrics_layout as layout
from mxworker.board.metrics_layout import OTHER, FailureWord, ProcessWord, RowWord
from mxworker.system.printable import foreign

_TOP_BYTE = layout.WORD_BYTES - 1  # a word whose top byte is not 0 was not reached by counting
_MOST_S = 1e15  # 30 million years of handlers that run
UNCOUNTABLE = 1 << 8 * _TOP_BYTE
_FAILURE = struct.Struct(f"<QQd{layout.ERROR_TYPE_AT - FailureWord.LAST_AT * 8 - 8}x{layout.ERROR_TYPE_BYTES}s")
"""See `FailureWord`: row, count, instant, type."""

Words = Sequence[int]
Seconds = Sequence[float]


def rows_written(used: int) -> int:
    """Return how many rows may have been written: also those for all others, when all rows are used."""
    return layout.ALL_ROWS if used == layout.ROWS else used


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of a row, see `RowWord` and `RowSeconds`."""

    words: Words
    seconds: Seconds


class ReadSlot(Protocol):
    """The part of `slot.BoardSlot` that is read here."""

    number: int
    words: memoryview
    metrics: memoryview
    """The metrics area."""


@dataclass(frozen=True, slots=True)
class Failures:
    """The failures of one handler, over all slots."""

    counts: Counter[str]
    last_at: dict[str, float]


def words_in(area: memoryview, at: int, count: int) -> list[int]:
    """Return `count` words from the byte `at` on; 0 for one that cannot have come about by counting."""
    raw = bytes(area[at : at + count * layout.WORD_BYTES])
    words: list[int] = memoryview(raw).cast("Q").tolist()
    tops = raw[_TOP_BYTE :: layout.WORD_BYTES]
    if tops.count(0) != count:
        return [0 if top else word for top, word in zip(tops, words, strict=True)]
    return words


def seconds_in(area: memoryview, at: int, count: int) -> Seconds:
    """Return `count` doubles from the word `at` on; 0 for one that is no time."""
    start = at * layout.WORD_BYTES
    raw: memoryview[float] = area[start : start + count * layout.WORD_BYTES].cast("d")
    seconds = raw.tolist()
    if 0 <= sum(seconds) <= _MOST_S and min(seconds) >= 0:  # the sum of what is no number is no number
        return seconds
    return [second if 0 <= second <= _MOST_S else 0.0 for second in seconds]


def rows_in(area: memoryview, process: Words) -> list[tuple[bytes, Row]]:
    """Return the rows that a slot uses, each with its raw names."""
    used = min(process[ProcessWord.ROWS_USED], layout.ROWS)
    names = bytes(area[layout.ROW_NAMES_AT : layout.ROW_NAMES_AT + used * layout.ROW_NAMES_BYTES])
    size = layout.ROW_NAMES_BYTES
    end = used + (used == layout.ROWS)  # else there is no row for all others, and its memory is not touched
    raw = memoryview(bytes(area[layout.ROWS_AT : layout.ROWS_AT + end * layout.ROW_WORDS * layout.WORD_BYTES]))
    found = [
        (name, _row(raw, row)) for row in range(used) if (name := names[row * size : (row + 1) * size]) != FREE_NAMES
    ]
    if used == layout.ROWS:
        other = _row(raw, layout.OTHER_ROW)
        if any(other.words):
            found.append((_OTHER_NAMES, other))
    return found


def former_row_in(area: memoryview, process: Words) -> list[Row]:
    """Return what a slot has counted in rows that were given to other handlers."""
    if process[ProcessWord.ROWS_USED] < layout.ROWS:
        return []
    at = layout.ROWS_AT + layout.FORMER_ROW * layout.ROW_WORDS * layout.WORD_BYTES
    return [_row(memoryview(bytes(area[at : at + layout.ROW_WORDS * layout.WORD_BYTES])), 0)]


def _row(rows: memoryview, row: int) -> Row:
    at = row * layout.ROW_WORDS * layout.WORD_BYTES
    end = at // layout.WORD_BYTES + layout.ROW_WORDS
    return Row(
        words_in(rows, at, layout.ROW_WORDS - layout.SECONDS), seconds_in(rows, end - layout.SECONDS, layout.SECONDS)
    )


def exchanges_in(area: memoryview, process: Words) -> list[tuple[bytes, Words]]:
    """Return the exchanges that a slot uses, each with its raw name."""
    used = min(process[ProcessWord.EXCHANGES_USED], layout.EXCHANGES)
    size = layout.EXCHANGE_WORDS
    found: list[tuple[bytes, Words]] = []
    words = words_in(area, layout.EXCHANGES_AT, used * size)
    for row in range(used):
        at = layout.EXCHANGE_NAMES_AT + row * layout.NAME_BYTES
        found.append((bytes(area[at : at + layout.NAME_BYTES]), words[row * size : (row + 1) * size]))
    if used == layout.EXCHANGES:
        other = words_in(area, layout.EXCHANGES_AT + layout.OTHER_EXCHANGE * size * layout.WORD_BYTES, size)
        if any(other):
            found.append((_OTHER_EXCHANGE, other))
    return found


def read_failures(area: memoryview, process: Words, into: Mapping[bytes, Failures]) -> None:
    """Add the failures of one slot to those of the other slots."""
    used = min(process[ProcessWord.FAILURES_USED], layout.FAILURES)
    entries = area[layout.FAILURES_AT : layout.FAILURES_AT + used * layout.FAILURE_BYTES]
    of_rows: dict[int, Failures] = {}
    for row, count, last_at, raw in _FAILURE.iter_unpack(entries):
        if row > layout.OTHER_ROW:
            continue
        of_row = of_rows.get(row)
        if of_row is None:
            of_row = of_rows[row] = into[_names_of(area, row)]
        error_type = text_of(raw)
        of_row.counts[error_type] += count if count < UNCOUNTABLE else 0
        known_at = of_row.last_at.get(error_type, 0.0)
        of_row.last_at[error_type] = last_at if known_at < last_at <= _MOST_S else known_at


def _names_of(area: memoryview, row: int) -> bytes:
    if row == layout.OTHER_ROW:
        return _OTHER_NAMES
    at = layout.ROW_NAMES_AT + row * layout.ROW_NAMES_BYTES
    return bytes(area[at : at + layout.ROW_NAMES_BYTES])


def padded(name: str, size: int = layout.NAME_BYTES) -> bytes:
    """Return a name as it is on the board: its first bytes, padded with NUL."""
    return name.encode("utf-8", "replace")[:size].ljust(size, b"\0")


FREE_NAMES = bytes(layout.ROW_NAMES_BYTES)
"""The names of a row that is free again."""
_OTHER_NAMES = padded(OTHER) * 2
_OTHER_EXCHANGE = padded(OTHER)


@lru_cache(maxsize=4096)  # each name is in many slots
def text_of(raw: bytes) -> str:
    """Return a name on the board as text."""
    return foreign(raw.partition(b"\0")[0].decode("utf-8", "replace"))


def pair_of(names: bytes) -> tuple[str, str]:
    """Return the queue and the handler of a row."""
    return text_of(names[: layout.NAME_BYTES]), text_of(names[layout.NAME_BYTES :])


def former(slots: Iterable[ReadSlot]) -> set[bytes]:
    """Return the names, as they are on the board, of the handlers that are not shown any more."""
    rows: defaultdict[bytes, list[Row]] = defaultdict(list)
    for slot in slots:
        for name, row in rows_in(slot.metrics, words_in(slot.metrics, 0, layout.PROCESS_WORDS)):
            rows[name].append(row)
    return former_of(rows)


def former_of(rows: Mapping[bytes, Sequence[Row]]) -> set[bytes]:
    """Return the names of handlers that neither the code of any worker has, nor the code before it.

    So the last counts of a handler are shown until the next reload. While no worker has any handler, none is former.
    """
    latest = {name: max(row.words[RowWord.GENERATION] for row in of_name) for name, of_name in rows.items()}
    living = [row.words[RowWord.GENERATION] for of_name in rows.values() for row in of_name if row.words[RowWord.SLOTS]]
    oldest = min(living, default=0)
    return {name for name, generation in latest.items() if generation < oldest - 1 and name != _OTHER_NAMES}
