"""Reading the metrics of all slots: `fold` sums them up by name.

A slot holds what its worker wrote, so any bytes at all, and perhaps a row that is being written. Each number is
bounded, and each name made printable. A number that no worker can have reached by counting is read as 0.

Words are converted and summed up without a step in Python for each of them: 32 slots with 50 handlers have 180,000.

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
from mxworker.board.layout import Word
from mxworker.board.metric_values import (
    ConsumerMetrics,
    ExchangeMetrics,
    Histogram,
    ProcessMetrics,
    QueueFacts,
    ServiceMetrics,
)
from mxworker.board.metrics_layout import (
    BUCKETS,
    FAILURE_TYPES,
    OTHER,
    OUTCOMES,
    PUBLISH_OUTCOMES,
    Cause,
    ChannelState,
    ConnectionState,
    ExchangeWord,
    FailureWord,
    Loss,
    Outcome,
    ProcessSeconds,
    ProcessWord,
    Role,
    RowSeconds,
    RowWord,
)
from mxworker.system.printable import foreign

_TOP_BYTE = layout.WORD_BYTES - 1  # a word whose top byte is not 0 was not reached by counting
_MOST = (1 << 63) - 1  # of a sum: JSON holds no more
_MOST_S = 1e15  # 30 million years of handlers that run
_UNCOUNTABLE = 1 << 8 * _TOP_BYTE
_FAILURE = struct.Struct(f"<QQd{layout.ERROR_TYPE_AT - FailureWord.LAST_AT * 8 - 8}x{layout.ERROR_TYPE_BYTES}s")
"""See `FailureWord`: row, count, instant, type."""
Words = Sequence[int]
Seconds = Sequence[float]


@dataclass(frozen=True, slots=True)
class _Row:
    words: Words
    seconds: Seconds


class ReadSlot(Protocol):
    """The part of `slot.BoardSlot` that is read here."""

    number: int
    words: memoryview
    metrics: memoryview
    """The metrics area."""


class ReadBoard(Protocol):
    """The part of `page.Board` that is read here."""

    @property
    def used(self) -> Iterable[ReadSlot]:
        """The slots that ever had a process."""


@dataclass(frozen=True, slots=True)
class _Failures:
    """The failures of one handler, over all slots."""

    counts: Counter[str]
    last_at: dict[str, float]


def fold(board: ReadBoard) -> ServiceMetrics:
    """Return the metrics of all slots, summed up by name."""
    rows: defaultdict[bytes, list[_Row]] = defaultdict(list)
    exchanges: defaultdict[bytes, list[Words]] = defaultdict(list)
    failures: defaultdict[bytes, _Failures] = defaultdict(lambda: _Failures(Counter(), {}))
    processes = []
    for slot in board.used:
        area = slot.metrics
        words = _words(area, 0, layout.PROCESS_WORDS)
        seconds = _seconds(area, layout.PROCESS_WORDS - layout.SECONDS, layout.SECONDS)
        own_rows = _rows(area, words)
        for name, row in own_rows:
            rows[name].append(row)
        for exchange, counts in _exchanges(area, words):
            exchanges[exchange].append(counts)
        _read_failures(area, words, failures)
        processes.append(_process(slot, _Row(words, seconds), [row for _, row in own_rows]))
    shown: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
    for name in rows:
        shown[_pair(name)].append(name)
    of_names = {pair: [row for name in names for row in rows[name]] for pair, names in sorted(shown.items())}
    failed = {pair: [failures[name] for name in names if name in failures] for pair, names in shown.items()}
    return ServiceMetrics(
        consumers=tuple(_consumer(pair, of_name, failed[pair]) for pair, of_name in of_names.items()),
        exchanges=_folded_exchanges(exchanges),
        processes=tuple(processes),
        queues=_queue_facts(of_names),
    )


def outcomes(area: memoryview) -> list[int]:
    """Return how many deliveries of a slot ended with each `Outcome`; `area` is the metrics area of the slot."""
    used = min(_words(area, ProcessWord.ROWS_USED * layout.WORD_BYTES, 1)[0], layout.ROWS)
    end = layout.ROWS_AT + (used + (used == layout.ROWS)) * layout.ROW_WORDS * layout.WORD_BYTES
    words = area[layout.ROWS_AT : end].cast("Q")
    return [min(_counted(words[outcome :: layout.ROW_WORDS].tolist()), _MOST) for outcome in Outcome]


def _counted(words: Words) -> int:
    """Return the sum of words, without those that cannot have come about by counting."""
    return sum(words) if max(words, default=0) < _UNCOUNTABLE else sum(word for word in words if word < _UNCOUNTABLE)


# ---- from memory


def _words(area: memoryview, at: int, count: int) -> list[int]:
    """Return `count` words from the byte `at` on; 0 for one that cannot have come about by counting."""
    raw = bytes(area[at : at + count * layout.WORD_BYTES])
    words: list[int] = memoryview(raw).cast("Q").tolist()
    tops = raw[_TOP_BYTE :: layout.WORD_BYTES]
    if tops.count(0) != count:
        return [0 if top else word for top, word in zip(tops, words, strict=True)]
    return words


def _seconds(area: memoryview, at: int, count: int) -> Seconds:
    """Return `count` doubles from the word `at` on; 0 for one that is no time."""
    start = at * layout.WORD_BYTES
    raw: memoryview[float] = area[start : start + count * layout.WORD_BYTES].cast("d")
    seconds = raw.tolist()
    if 0 <= sum(seconds) <= _MOST_S and min(seconds) >= 0:  # the sum of what is no number is no number
        return seconds
    return [second if 0 <= second <= _MOST_S else 0.0 for second in seconds]


def _rows(area: memoryview, process: Words) -> list[tuple[bytes, _Row]]:
    """Return the rows that a slot uses, each with its raw names."""
    used = min(process[ProcessWord.ROWS_USED], layout.ROWS)
    names = bytes(area[layout.ROW_NAMES_AT : layout.ROW_NAMES_AT + used * layout.ROW_NAMES_BYTES])
    size = layout.ROW_NAMES_BYTES
    end = used + (used == layout.ROWS)  # else there is no row for all others, and its memory is not touched
    raw = memoryview(bytes(area[layout.ROWS_AT : layout.ROWS_AT + end * layout.ROW_WORDS * layout.WORD_BYTES]))
    found = [(names[row * size : (row + 1) * size], _row(raw, row)) for row in range(used)]
    if used == layout.ROWS:
        other = _row(raw, layout.OTHER_ROW)
        if any(other.words):
            found.append((_OTHER_NAMES, other))
    return found


def _row(rows: memoryview, row: int) -> _Row:
    at = row * layout.ROW_WORDS * layout.WORD_BYTES
    end = at // layout.WORD_BYTES + layout.ROW_WORDS
    return _Row(
        _words(rows, at, layout.ROW_WORDS - layout.SECONDS), _seconds(rows, end - layout.SECONDS, layout.SECONDS)
    )


def _exchanges(area: memoryview, process: Words) -> list[tuple[bytes, Words]]:
    """Return the exchanges that a slot uses, each with its raw name."""
    used = min(process[ProcessWord.EXCHANGES_USED], layout.EXCHANGES)
    size = layout.EXCHANGE_WORDS
    found: list[tuple[bytes, Words]] = []
    words = _words(area, layout.EXCHANGES_AT, used * size)
    for row in range(used):
        at = layout.EXCHANGE_NAMES_AT + row * layout.NAME_BYTES
        found.append((bytes(area[at : at + layout.NAME_BYTES]), words[row * size : (row + 1) * size]))
    if used == layout.EXCHANGES:
        other = _words(area, layout.EXCHANGES_AT + layout.OTHER_EXCHANGE * size * layout.WORD_BYTES, size)
        if any(other):
            found.append((_OTHER_EXCHANGE, other))
    return found


def _read_failures(area: memoryview, process: Words, into: Mapping[bytes, _Failures]) -> None:
    """Add the failures of one slot to those of the other slots."""
    used = min(process[ProcessWord.FAILURES_USED], layout.FAILURES)
    entries = area[layout.FAILURES_AT : layout.FAILURES_AT + used * layout.FAILURE_BYTES]
    of_rows: dict[int, _Failures] = {}
    for row, count, last_at, raw in _FAILURE.iter_unpack(entries):
        if row > layout.OTHER_ROW:
            continue
        of_row = of_rows.get(row)
        if of_row is None:
            of_row = of_rows[row] = into[_names_of(area, row)]
        error_type = _text(raw)
        of_row.counts[error_type] += count if count < _UNCOUNTABLE else 0
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


_OTHER_NAMES = padded(OTHER) * 2
_OTHER_EXCHANGE = padded(OTHER)


@lru_cache(maxsize=4096)  # each name is in many slots
def _text(raw: bytes) -> str:
    return foreign(raw.partition(b"\0")[0].decode("utf-8", "replace"))


def _pair(names: bytes) -> tuple[str, str]:
    return _text(names[: layout.NAME_BYTES]), _text(names[layout.NAME_BYTES :])


# ---- from words to values


def _summed(rows: Sequence[Words]) -> Words:
    if len(rows) == 1:
        return rows[0]
    totals = list(map(sum, zip(*rows, strict=True)))
    return totals if max(totals) <= _MOST else [min(total, _MOST) for total in totals]


def _histogram(words: Words, at: int, sum_s: float) -> Histogram:
    return Histogram(tuple(words[at : at + BUCKETS]), sum_s)


def _consumer(names: tuple[str, str], rows: Sequence[_Row], failures: Sequence[_Failures]) -> ConsumerMetrics:
    words = _summed([row.words for row in rows])
    seconds = list(map(sum, zip(*(row.seconds for row in rows), strict=True)))
    counts, failed_at = _most_frequent(failures, words[RowWord.OTHER_FAILURES])
    paused = words[RowWord.IS_PAUSED]
    return ConsumerMetrics(
        queue=names[0],
        handler=names[1],
        outcomes=dict(zip(OUTCOMES, words, strict=False)),
        failures=counts,
        failed_at=failed_at,
        redelivered=words[RowWord.REDELIVERED],
        bytes_received=words[RowWord.BYTES_RECEIVED],
        duration=_histogram(words, RowWord.DURATION, seconds[RowSeconds.DURATION]),
        wait=_histogram(words, RowWord.WAIT, seconds[RowSeconds.WAIT]),
        age=_histogram(words, RowWord.AGE, seconds[RowSeconds.AGE]),
        end_to_end=_histogram(words, RowWord.END_TO_END, seconds[RowSeconds.END_TO_END]),
        busy_s=seconds[RowSeconds.BUSY],
        slots=words[RowWord.SLOTS],
        in_flight=words[RowWord.IN_FLIGHT],
        prefetched=words[RowWord.PREFETCHED],
        stuck=words[RowWord.STUCK],
        paused=paused,
        is_paused=0 < sum(row.words[RowWord.SLOTS] > 0 for row in rows) <= paused,
        last_delivery_unix_s=max(row.seconds[RowSeconds.LAST_DELIVERY_AT] for row in rows),
        objective_s=max(row.seconds[RowSeconds.OBJECTIVE] for row in rows) or None,
        consuming=words[RowWord.IS_CONSUMED],
    )


def _most_frequent(failures: Sequence[_Failures], others: int) -> tuple[dict[str, int], dict[str, float]]:
    """Return the counts of the most frequent types of errors and of all others, and when each type came last."""
    total: Counter[str] = Counter()
    last_at: dict[str, float] = {}
    for each in failures:
        total.update(each.counts)
        for error_type, at in each.last_at.items():
            last_at[error_type] = max(at, last_at.get(error_type, 0.0))
    shown = dict(total.most_common(FAILURE_TYPES))
    others += total.total() - sum(shown.values())
    failed_at = {error_type: last_at[error_type] for error_type in shown}
    if others:
        shown[OTHER] = shown.get(OTHER, 0) + others
    return shown, failed_at


def _folded_exchanges(exchanges: Mapping[bytes, list[Words]]) -> tuple[ExchangeMetrics, ...]:
    by_name: defaultdict[str, list[Words]] = defaultdict(list)
    for name, rows in exchanges.items():
        by_name[_text(name)] += rows
    return tuple(
        ExchangeMetrics(name, dict(zip(PUBLISH_OUTCOMES, words, strict=False)), words[ExchangeWord.BYTES_SENT])
        for name, words in ((name, _summed(rows)) for name, rows in sorted(by_name.items()))
    )


def _queue_facts(rows: Mapping[tuple[str, str], Sequence[_Row]]) -> tuple[QueueFacts, ...]:
    """Return the newest facts of each queue that was ever looked at.

    While a worker has any handler, no worker looks at the queues of former code any more: their facts only grow old.
    """
    present = {queue for (queue, _), of_queue in rows.items() if any(row.words[RowWord.SLOTS] for row in of_queue)}
    newest: dict[str, _Row] = {}
    for (queue, _), of_queue in rows.items():
        if present and queue not in present:
            continue
        for row in of_queue:
            if row.seconds[RowSeconds.LOOKED_AT] > (
                newest[queue].seconds[RowSeconds.LOOKED_AT] if queue in newest else 0
            ):
                newest[queue] = row
    return tuple(_facts(queue, row.words, row.seconds[RowSeconds.LOOKED_AT]) for queue, row in newest.items())


def _facts(queue: str, words: Words, looked_at_unix_s: float) -> QueueFacts:
    ready, consumers, retry_waiting, dead_letters, quarantined = (
        words[word] - 1 if words[word] else None for word in range(RowWord.READY, RowWord.QUARANTINED + 1)
    )
    return QueueFacts(queue, ready, consumers, retry_waiting, dead_letters, quarantined, looked_at_unix_s)


def _process(slot: ReadSlot, process: _Row, rows: Sequence[_Row]) -> ProcessMetrics:
    words, seconds = process.words, process.seconds

    def total(word: int) -> int:
        return min(sum([row.words[word] for row in rows]), _MOST)

    def each(kind: type[Cause] | type[Loss], at: int) -> dict[str, int]:
        return {_label(one): words[at + one] for one in kind}

    def by_role(state: type[ConnectionState] | type[ChannelState], at: int) -> dict[tuple[str, str], int]:
        return {(_label(role), _label(one)): words[at + role * len(state) + one] for role in Role for one in state}

    return ProcessMetrics(
        slot=slot.number,
        outcomes={name: total(outcome) for name, outcome in zip(OUTCOMES, Outcome, strict=True)},
        busy_s=sum([row.seconds[RowSeconds.BUSY] for row in rows]),
        slots=total(RowWord.SLOTS),
        in_flight=total(RowWord.IN_FLIGHT),
        prefetched=total(RowWord.PREFETCHED),
        stuck=total(RowWord.STUCK),
        loop_lag_s=seconds[ProcessSeconds.LOOP_LAG],
        rss_bytes=min(slot.words[Word.RSS_BYTES], _MOST),
        cpu_s=seconds[ProcessSeconds.CPU],
        log_lines_dropped=words[ProcessWord.LOG_LINES_DROPPED],
        publish_in_flight=words[ProcessWord.PUBLISH_IN_FLIGHT],
        publish_waiting_for=each(Cause, ProcessWord.PUBLISH_WAITING),
        is_publish_blocked=bool(words[ProcessWord.IS_PUBLISH_BLOCKED]),
        connections=by_role(ConnectionState, ProcessWord.CONNECTIONS),
        channels=by_role(ChannelState, ProcessWord.CHANNELS),
        borrowed_channels=words[ProcessWord.BORROWED_CHANNELS],
        reconnects=each(Loss, ProcessWord.RECONNECTS),
        pool_wait=_histogram(words, ProcessWord.POOL_WAIT, seconds[ProcessSeconds.POOL_WAIT]),
        confirm_duration=_histogram(words, ProcessWord.CONFIRM, seconds[ProcessSeconds.CONFIRM]),
    )


@lru_cache(maxsize=64, typed=True)  # by type too: members of different enums are equal numbers
def _label(one: Cause | Loss | Role | ConnectionState | ChannelState) -> str:
    return one.name.lower().replace("_", " ")
