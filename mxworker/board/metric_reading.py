"""Reading the metrics area of a slot: its rows, exchanges and failures, each with its name as it is on the board.

A slot holds what its worker wrote, so any bytes at all, and perhaps a row that is being written. A number that no
worker can have reached by counting is read as 0.

The words of a row are one large number, with its first word in the lowest bits, and rows are added up as such numbers:
32 slots with 50 handlers have 180,000 words, and a step in Python for each would be most of the time of a scrape.

Pure, but for the memory it reads.
"""

from __future__ import annotations

import struct
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from mxworker.board import metrics_layout as layout
from mxworker.board.metrics_layout import OTHER, FailureWord, ProcessSeconds, ProcessWord, RowSeconds, RowWord
from mxworker.system.printable import foreign

_BYTES = layout.WORD_BYTES
_BITS = 8 * _BYTES
_WORD = (1 << _BITS) - 1
UNCOUNTABLE = 1 << _BITS - 8
"""A word whose top byte is not 0 was not reached by counting."""
_ADDED_AT_ONCE = 256  # words that count: a sum of them fits into a word, so that none carries into the next one
MOST = (1 << 63) - 1
"""Of a sum: JSON holds no more."""
_MOST_S = 1e15  # 30 million years of handlers that run
_ROW_BYTES = layout.ROW_WORDS * _BYTES
_SECONDS_AT = _ROW_BYTES - layout.SECONDS * _BYTES
_EXCHANGE_BYTES = layout.EXCHANGE_WORDS * _BYTES
_TOP_BYTES = int.from_bytes(bytes([*[0] * (_BYTES - 1), 255]) * layout.PROCESS_WORDS, "little")
_SECONDS = struct.Struct(f"<{max(len(RowSeconds), len(ProcessSeconds))}d")
_FAILURE = struct.Struct(f"<QQd{layout.ERROR_TYPE_AT - FailureWord.LAST_AT * 8 - 8}x{layout.ERROR_TYPE_BYTES}s")
"""See `FailureWord`: row, count, instant, type."""

Words = Sequence[int]
Seconds = Sequence[float]
Failures = dict[bytes, tuple[int, float]]
"""The failures of one handler by the type of the error: how often it came, and when it came last."""


def rows_written(used: int) -> int:
    """Return how many rows may have been written: also those for all others, when all rows are used."""
    return layout.ALL_ROWS if used == layout.ROWS else used


class Row(NamedTuple):  # there are thousands, and it is made quicker than a frozen dataclass
    """The numbers of a row, see `RowWord` and `RowSeconds`."""

    words: int
    """All words as one number."""
    seconds: Seconds

    def word(self, at: RowWord) -> int:
        """Return one word."""
        return self.words >> at * _BITS & _WORD


class ReadSlot(Protocol):
    """The part of `slot.BoardSlot` that is read here."""

    number: int
    words: memoryview
    metrics: memoryview
    """The metrics area."""


def words_in(raw: bytes) -> int:
    """Return words as one number; each that cannot have come about by counting is 0 in it."""
    words = int.from_bytes(raw, "little")
    if words & _TOP_BYTES:
        counted = [word if word < UNCOUNTABLE else 0 for word in memoryview(raw).cast("Q")]
        words = int.from_bytes(array("Q", counted).tobytes(), "little")
    return words


def seconds_in(raw: bytes, at: int) -> Seconds:
    """Return the seconds from the byte `at` on; 0 for one that is no time."""
    seconds = _SECONDS.unpack_from(raw, at)
    if 0 <= sum(seconds) <= _MOST_S and min(seconds) >= 0:  # the sum of what is no number is no number
        return seconds
    return tuple(second if 0 <= second <= _MOST_S else 0.0 for second in seconds)


def summed(rows: Sequence[int], count: int) -> Words:
    """Return the sums of the first `count` words of rows."""
    parts = [rows[at : at + _ADDED_AT_ONCE] for at in range(0, max(1, len(rows)), _ADDED_AT_ONCE)]
    sums = [_each(sum(part), count) for part in parts]
    totals = sums[0] if len(sums) == 1 else list(map(sum, zip(*sums, strict=True)))
    return totals if max(totals) <= MOST else [min(total, MOST) for total in totals]


def _each(words: int, count: int) -> list[int]:
    """Return the first words of those that are one number."""
    raw = (words & (1 << count * _BITS) - 1).to_bytes(count * _BYTES, "little")
    each: list[int] = memoryview(raw).cast("Q").tolist()
    return each


def rows_used(area: memoryview) -> int:
    """Return how many rows a slot uses, without the one for all others."""
    at = ProcessWord.ROWS_USED * _BYTES
    return min(words_in(bytes(area[at : at + _BYTES])), layout.ROWS)


def process_in(area: memoryview) -> tuple[Words, Seconds]:
    """Return the words and seconds of the process, see `ProcessWord` and `ProcessSeconds`."""
    raw = bytes(area[: layout.ROWS_AT])
    seconds_at = layout.ROWS_AT - layout.SECONDS * _BYTES
    return summed([words_in(raw[:seconds_at])], seconds_at // _BYTES), seconds_in(raw, seconds_at)


def rows_in(area: memoryview) -> list[tuple[bytes, Row]]:
    """Return the rows that a slot uses, each with its raw names."""
    used = rows_used(area)
    end = used + (used == layout.ROWS)  # else there is no row for all others, and its memory is not touched
    raw = bytes(area[layout.ROWS_AT : layout.ROWS_AT + end * _ROW_BYTES])
    names = _split(bytes(area[layout.ROW_NAMES_AT : layout.ROW_NAMES_AT + used * layout.ROW_NAMES_BYTES]))
    found = [(name, _row(raw, row)) for row, name in enumerate(names) if name != FREE_NAMES]
    if used == layout.ROWS:
        other = _row(raw, layout.OTHER_ROW)
        if other.words:
            found.append((_OTHER_NAMES, other))
    return found


@lru_cache(maxsize=16)  # all slots with the same code have the same names, mostly
def _split(names: bytes) -> tuple[bytes, ...]:
    return tuple(names[at : at + layout.ROW_NAMES_BYTES] for at in range(0, len(names), layout.ROW_NAMES_BYTES))


def former_row_in(area: memoryview) -> list[Row]:
    """Return what a slot has counted in rows that were given to other handlers."""
    if rows_used(area) < layout.ROWS:
        return []
    at = layout.ROWS_AT + layout.FORMER_ROW * _ROW_BYTES
    return [_row(bytes(area[at : at + _ROW_BYTES]), 0)]


def _row(raw: bytes, row: int) -> Row:
    at = row * _ROW_BYTES
    return Row(words_in(raw[at : at + _SECONDS_AT]), seconds_in(raw, at + _SECONDS_AT))


def exchanges_in(area: memoryview, process: Words) -> list[tuple[bytes, int]]:
    """Return the exchanges that a slot uses, each with its raw name and its words as one number."""
    used = min(process[ProcessWord.EXCHANGES_USED], layout.EXCHANGES)
    found: list[tuple[bytes, int]] = []
    for row in range(used):
        at = layout.EXCHANGE_NAMES_AT + row * layout.NAME_BYTES
        found.append((bytes(area[at : at + layout.NAME_BYTES]), _exchange(area, row)))
    if used == layout.EXCHANGES:
        other = _exchange(area, layout.OTHER_EXCHANGE)
        if other:
            found.append((_OTHER_EXCHANGE, other))
    return found


def _exchange(area: memoryview, row: int) -> int:
    at = layout.EXCHANGES_AT + row * _EXCHANGE_BYTES
    return words_in(bytes(area[at : at + _EXCHANGE_BYTES]))


def read_failures(area: memoryview, process: Words, into: Mapping[bytes, Failures]) -> None:
    """Add the failures of one slot to those of the other slots."""
    used = min(process[ProcessWord.FAILURES_USED], layout.FAILURES)
    entries = area[layout.FAILURES_AT : layout.FAILURES_AT + used * layout.FAILURE_BYTES]
    of_rows: dict[int, Failures] = {}
    for row, count, last_at, error_type in _FAILURE.iter_unpack(entries):
        if row > layout.OTHER_ROW:
            continue
        of_row = of_rows.get(row)
        if of_row is None:
            of_row = of_rows[row] = into[_names_of(area, row)]
        known, known_at = of_row.get(error_type, _NO_FAILURE)
        of_row[error_type] = (
            known + count if count < UNCOUNTABLE else known,
            last_at if known_at < last_at <= _MOST_S else known_at,
        )


def _names_of(area: memoryview, row: int) -> bytes:
    if row == layout.OTHER_ROW:
        return _OTHER_NAMES
    at = layout.ROW_NAMES_AT + row * layout.ROW_NAMES_BYTES
    return bytes(area[at : at + layout.ROW_NAMES_BYTES])


def padded(name: str, size: int = layout.NAME_BYTES) -> bytes:
    """Return a name as it is on the board: its first bytes, padded with NUL."""
    return name.encode("utf-8", "replace")[:size].ljust(size, b"\0")


_NO_FAILURE = (0, 0.0)
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
        for name, row in rows_in(slot.metrics):
            rows[name].append(row)
    return former_of(rows)


def former_of(rows: Mapping[bytes, Sequence[Row]]) -> set[bytes]:
    """Return the names of handlers that neither the code of any worker has, nor the code before it.

    So the last counts of a handler are shown until the next reload. While no worker has any handler, none is former.
    """
    latest = {name: max([row.word(RowWord.GENERATION) for row in of_name]) for name, of_name in rows.items()}
    if min(latest.values(), default=0) >= max(latest.values(), default=0) - 1:
        return set()  # as usual, and quicker
    living = [row for of_name in rows.values() for row in of_name if row.word(RowWord.SLOTS)]
    oldest = min([row.word(RowWord.GENERATION) for row in living], default=0)
    return {name for name, generation in latest.items() if generation < oldest - 1 and name != _OTHER_NAMES}
