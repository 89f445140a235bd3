"""Writing the metrics of a slot. Its worker writes while it lives, and the master while there is no worker.

The hot path adds to words of a row directly, since a call would take longer than the store: see `ConsumerRow.words`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable

from mxworker.board import metrics_layout as layout
from mxworker.board.metric_reading import FREE_NAMES, padded, rows_written
from mxworker.board.metrics_layout import (
    BOUNDS_S,
    FAILURE_TYPES,
    PROCESS_GAUGES,
    ROW_GAUGES,
    FailureWord,
    Outcome,
    ProcessSeconds,
    ProcessWord,
    RowSeconds,
    RowWord,
)

_BYTES = layout.WORD_BYTES

SavedMetrics = list[tuple[int, bytes]]
"""Parts of a metrics area, each with its place."""


class MetricRows:
    """The metrics area of one slot."""

    def __init__(self, area: memoryview) -> None:
        """Use `area`, of METRICS_BYTES bytes. What is in it stays."""
        self._area = area
        self.process = area[: layout.ROWS_AT].cast("Q")
        """The words of the process, see `ProcessWord`."""
        self.process_seconds = area[layout.ROWS_AT - layout.SECONDS * _BYTES : layout.ROWS_AT].cast("d")
        """See `ProcessSeconds`."""
        self._exchanges: dict[str, memoryview] = {}

    # ---- the master's side

    def clear_gauges(self) -> None:
        """Set all gauges to 0, since the process that they are about has ended."""
        for word in PROCESS_GAUGES:
            self.process[word] = 0
        self.process_seconds[ProcessSeconds.LOOP_LAG] = 0.0
        used = min(self.process[ProcessWord.ROWS_USED], layout.ROWS)
        for row in range(rows_written(used)):
            words, seconds = self._row(row)
            for word in ROW_GAUGES:
                words[word] = 0
            seconds[RowSeconds.OBJECTIVE] = 0.0

    def saved(self) -> SavedMetrics:
        """Return a copy of what is in use, for `restore`. Takes about 10 us for 10 handlers."""
        rows = min(self.process[ProcessWord.ROWS_USED], layout.ROWS)
        exchanges = min(self.process[ProcessWord.EXCHANGES_USED], layout.EXCHANGES)
        failures = min(self.process[ProcessWord.FAILURES_USED], layout.FAILURES)
        sizes = {
            0: layout.ROWS_AT,
            layout.ROWS_AT: rows_written(rows) * layout.ROW_WORDS * _BYTES,
            layout.ROW_NAMES_AT: rows * layout.ROW_NAMES_BYTES,
            layout.EXCHANGES_AT: (exchanges + (exchanges == layout.EXCHANGES)) * layout.EXCHANGE_WORDS * _BYTES,
            layout.EXCHANGE_NAMES_AT: exchanges * layout.NAME_BYTES,
            layout.FAILURES_AT: failures * layout.FAILURE_BYTES,
        }
        return [(at, bytes(self._area[at : at + size])) for at, size in sizes.items()]

    def restore(self, saved: SavedMetrics) -> None:
        """Put back what `saved` returned."""
        for at, raw in saved:
            self._area[at : at + len(raw)] = raw
        if not saved:
            self.process[ProcessWord.ROWS_USED] = 0
            self.process[ProcessWord.EXCHANGES_USED] = self.process[ProcessWord.FAILURES_USED] = 0

    # ---- the worker's side

    def claim(self, names: Iterable[tuple[str, str]], generation: int, former: Callable[[], set[bytes]]) -> None:
        """Give a row to each of the handlers of this code, named by queue and handler, as far as there are rows.

        `generation` is that of the code. `former` returns the names of rows that may be given to others, see
        `metric_reading.former`; it is called only when there are too few.
        """
        wanted = list(dict.fromkeys(padded(queue) + padded(handler) for queue, handler in names))
        present = self._row_names()
        missing = [name for name in wanted if name not in present]
        room = layout.ROWS - len(present) + present.count(FREE_NAMES)
        if len(missing) > room:
            gone = former().difference(wanted)
            for row in [row for row, name in enumerate(present) if name in gone][: len(missing) - room]:
                self._free(row)
        for name in missing:
            self._take_row(name)
        rows = {name: row for row, name in enumerate(self._row_names())}
        for row in {rows.get(name, layout.OTHER_ROW) for name in wanted}:
            self._row(row)[0][RowWord.GENERATION] = generation

    def _row_names(self) -> list[bytes]:
        size, at = layout.ROW_NAMES_BYTES, layout.ROW_NAMES_AT
        used = min(self.process[ProcessWord.ROWS_USED], layout.ROWS)
        return [bytes(self._area[at + row * size : at + (row + 1) * size]) for row in range(used)]

    def _take_row(self, name: bytes) -> None:
        """Give a row that is free again to a handler, or else one that was never used."""
        names = self._row_names()
        if FREE_NAMES in names:
            at = layout.ROW_NAMES_AT + names.index(FREE_NAMES) * layout.ROW_NAMES_BYTES
            self._area[at : at + layout.ROW_NAMES_BYTES] = name
        else:
            self._find(name, ProcessWord.ROWS_USED, layout.ROWS, layout.ROW_NAMES_AT)

    def _free(self, row: int) -> None:
        """Free the row of a former handler. What the worker has counted in it still counts for the worker."""
        at = layout.ROW_NAMES_AT + row * layout.ROW_NAMES_BYTES
        self._area[at : at + layout.ROW_NAMES_BYTES] = FREE_NAMES
        (words, seconds), (kept, kept_seconds) = self._row(row), self._row(layout.FORMER_ROW)
        for outcome in Outcome:
            kept[outcome] += words[outcome]
        kept_seconds[RowSeconds.BUSY] += seconds[RowSeconds.BUSY]
        words[:] = memoryview(bytes(words.nbytes)).cast("Q")
        seconds[:] = memoryview(bytes(seconds.nbytes)).cast("d")
        for entry in range(min(self.process[ProcessWord.FAILURES_USED], layout.FAILURES)):
            count, _ = self._failure(entry)
            if count.words[FailureWord.ROW] == row:
                count.words[FailureWord.ROW] = layout.FORMER_ROW

    def consumer(self, queue: str, handler: str) -> ConsumerRow:
        """Return the row of a handler: that of its predecessors, a new one, or the row for all others."""
        names = padded(queue) + padded(handler)
        row = self._find(names, ProcessWord.ROWS_USED, layout.ROWS, layout.ROW_NAMES_AT)
        return ConsumerRow(self, row, *self._row(row))

    def show_lag(self, lag_s: float) -> None:
        """Show how long the event loop took to answer."""
        self.process_seconds[ProcessSeconds.LOOP_LAG] = lag_s

    def exchange(self, exchange: str) -> memoryview:
        """Return the words of an exchange, see `ExchangeWord`; beyond 64 exchanges those for all others."""
        words = self._exchanges.get(exchange)
        if words is None:
            at = layout.EXCHANGE_NAMES_AT
            row = self._find(padded(exchange), ProcessWord.EXCHANGES_USED, layout.EXCHANGES, at)
            start = layout.EXCHANGES_AT + row * layout.EXCHANGE_WORDS * _BYTES
            words = self._area[start : start + layout.EXCHANGE_WORDS * _BYTES].cast("Q")
            if len(self._exchanges) < 2 * layout.EXCHANGES:  # an application may name one for each message
                self._exchanges[exchange] = words
        return words

    def _find(self, name: bytes, used_word: ProcessWord, most: int, names_at: int) -> int:
        """Return the number of the row with this name, of a new one, or of that for all others."""
        used = min(self.process[used_word], most)
        size = len(name)
        for row in range(used):
            if self._area[names_at + row * size : names_at + (row + 1) * size] == name:
                return row
        if used < most:
            self._area[names_at + used * size : names_at + (used + 1) * size] = name
            self.process[used_word] = used + 1  # after the name: a reader sees whole names only
        return used

    def _row(self, row: int) -> tuple[memoryview, memoryview[float]]:
        size = layout.ROW_WORDS * _BYTES
        at = layout.ROWS_AT + row * size
        seconds_at = at + size - layout.SECONDS * _BYTES
        return self._area[at:seconds_at].cast("Q"), self._area[seconds_at : at + size].cast("d")

    def failure(self, row: int, error_type: str) -> FailureCount | None:
        """Return the count of a type of error in a row; None when there is no room for it."""
        name = padded(error_type, layout.ERROR_TYPE_BYTES)
        used = min(self.process[ProcessWord.FAILURES_USED], layout.FAILURES)
        types, free = 0, used
        for entry in range(used):
            count, text = self._failure(entry)
            if count.words[FailureWord.ROW] == row:
                if text == name:
                    return count
                types += 1
            elif count.words[FailureWord.ROW] == layout.FORMER_ROW:
                free = entry
        if types >= FAILURE_TYPES or free == layout.FAILURES:
            return None
        count, text = self._failure(free)
        text[:] = name
        count.words[FailureWord.COUNT] = 0
        count.words[FailureWord.ROW] = row
        self.process[ProcessWord.FAILURES_USED] = max(used, free + 1)
        return count

    def _failure(self, entry: int) -> tuple[FailureCount, memoryview]:
        at = layout.FAILURES_AT + entry * layout.FAILURE_BYTES
        text_at, end = at + layout.ERROR_TYPE_AT, at + layout.FAILURE_BYTES
        return FailureCount(self._area[at:text_at]), self._area[text_at:end]


class FailureCount:
    """The count of one type of error in one row."""

    def __init__(self, entry: memoryview) -> None:
        """Use an `entry` up to the name."""
        self.words = entry.cast("Q")
        """See `FailureWord`."""
        self._seconds = entry.cast("d")

    def add(self) -> None:
        """Count one more."""
        self.words[FailureWord.COUNT] += 1
        self._seconds[FailureWord.LAST_AT] = time.time()


class ConsumerRow:
    """The row of one handler."""

    def __init__(self, area: MetricRows, row: int, words: memoryview, seconds: memoryview[float]) -> None:
        """Use the `words` and `seconds` of the row with this number."""
        self.words = words
        """See `RowWord` and `Outcome`; the hot path does `row.words[Outcome.ACK] += 1`."""
        self.seconds = seconds
        """See `RowSeconds`."""
        self._row = row
        self._area = area
        self._failures: dict[str, FailureCount | None] = {}

    @property
    def number(self) -> int:
        """The number of the row."""
        return self._row

    @property
    def is_own(self) -> bool:
        """Whether the row is that of this handler alone, and not the one for all others."""
        return self._row < layout.ROWS

    def failed(self, error_type: str) -> None:
        """Count a failure by the type of its error."""
        if error_type not in self._failures and len(self._failures) < 2 * FAILURE_TYPES:
            self._failures[error_type] = self._area.failure(self._row, error_type)
        count = self._failures.get(error_type)
        if count is None:
            self.words[RowWord.OTHER_FAILURES] += 1
        else:
            count.add()

    def write_queue_facts(
        self,
        ready: int | None,
        consumers: int | None,
        retry_waiting: int | None,
        dead_letters: int | None,
        quarantined: int | None,
        looked_at_unix_s: float,
    ) -> None:
        """Write what the broker said of the queue; None is what is not known."""
        facts = (ready, consumers, retry_waiting, dead_letters, quarantined)
        for word, fact in enumerate(facts, RowWord.READY):
            self.words[word] = 0 if fact is None else fact + 1
        self.seconds[RowSeconds.LOOKED_AT] = looked_at_unix_s


def observe(words: memoryview, histogram_at: int, seconds: memoryview[float], sum_at: int, value_s: float) -> None:
    """Count a value in a histogram. A value below 0, from clocks that disagree, counts as 0."""
    if value_s < 0.0:
        value_s = 0.0
    words[histogram_at + bisect_left(BOUNDS_S, value_s)] += 1
    seconds[sum_at] += value_s
