"""Reading the metrics of all slots: `fold` sums them up by name.

Pure, but for the memory that `metric_reading` reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from mxworker.board import metrics_layout as layout
from mxworker.board.layout import Word
from mxworker.board.metric_reading import (
    MOST,
    UNCOUNTABLE,
    Failures,
    ReadSlot,
    Row,
    Seconds,
    Words,
    exchanges_in,
    former_of,
    former_row_in,
    pair_of,
    process_in,
    read_failures,
    rows_in,
    rows_used,
    rows_written,
    summed,
    text_of,
)
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
    Loss,
    Outcome,
    ProcessSeconds,
    ProcessWord,
    Role,
    RowSeconds,
    RowWord,
)

_ROW_WORDS = layout.ROW_WORDS - layout.SECONDS


def _label(one: Cause | Loss | Role | ConnectionState | ChannelState) -> str:
    return one.name.lower().replace("_", " ")


def _by_role(states: type[ConnectionState] | type[ChannelState]) -> tuple[tuple[str, str], ...]:
    return tuple((_label(role), _label(state)) for role in Role for state in states)


_CAUSES = tuple(map(_label, Cause))
_LOSSES = tuple(map(_label, Loss))
_CONNECTIONS = _by_role(ConnectionState)
_CHANNELS = _by_role(ChannelState)

_Name = TypeVar("_Name")


class ReadBoard(Protocol):
    """The part of `page.Board` that is read here."""

    @property
    def used(self) -> Iterable[ReadSlot]:
        """The slots that ever had a process."""


def fold(board: ReadBoard) -> ServiceMetrics:
    """Return the metrics of all slots, summed up by name."""
    rows: defaultdict[bytes, list[Row]] = defaultdict(list)
    exchanges: defaultdict[bytes, list[int]] = defaultdict(list)
    failures: defaultdict[bytes, Failures] = defaultdict(dict)
    processes = []
    for slot in board.used:
        area = slot.metrics
        words, seconds = process_in(area)
        own_rows = rows_in(area)
        for name, row in own_rows:
            rows[name].append(row)
        for exchange, counts in exchanges_in(area, words):
            exchanges[exchange].append(counts)
        read_failures(area, words, failures)
        counted = [row for _, row in own_rows] + former_row_in(area)
        processes.append(_process(slot, words, seconds, counted))
    shown: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
    for name in rows.keys() - former_of(rows):
        shown[pair_of(name)].append(name)
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
    end = layout.ROWS_AT + rows_written(rows_used(area)) * layout.ROW_WORDS * layout.WORD_BYTES
    words = area[layout.ROWS_AT : end].cast("Q")
    return [min(_counted(words[outcome :: layout.ROW_WORDS].tolist()), MOST) for outcome in Outcome]


def _counted(words: Words) -> int:
    """Return the sum of words, without those that cannot have come about by counting."""
    return sum(words) if max(words, default=0) < UNCOUNTABLE else sum(word for word in words if word < UNCOUNTABLE)


# ---- from words to values


def _histogram(words: Words, at: int, sum_s: float) -> Histogram:
    return Histogram(tuple(words[at : at + BUCKETS]), sum_s)


def _named(names: Sequence[_Name], words: Words, at: int = 0) -> dict[_Name, int]:
    """Return words, from `at` on, by what they are called."""
    return dict(zip(names, words[at : at + len(names)], strict=True))


def _consumer(names: tuple[str, str], rows: Sequence[Row], failures: Sequence[Failures]) -> ConsumerMetrics:
    words = summed([row.words for row in rows], _ROW_WORDS)
    seconds_of = list(zip(*[row.seconds for row in rows], strict=True))
    seconds = list(map(sum, seconds_of))
    counts, failed_at = _most_frequent(failures, words[RowWord.OTHER_FAILURES])
    paused = words[RowWord.IS_PAUSED]
    return ConsumerMetrics(
        queue=names[0],
        handler=names[1],
        outcomes=_named(OUTCOMES, words),
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
        is_paused=paused > 0 and 0 < sum([row.word(RowWord.SLOTS) > 0 for row in rows]) <= paused,
        last_delivery_unix_s=max(seconds_of[RowSeconds.LAST_DELIVERY_AT]),
        objective_s=max(seconds_of[RowSeconds.OBJECTIVE]) or None,
        consuming=words[RowWord.IS_CONSUMED],
    )


def _most_frequent(failures: Sequence[Failures], others: int) -> tuple[dict[str, int], dict[str, float]]:
    """Return the counts of the most frequent types of errors and of all others, and when each type came last."""
    total: Counter[str] = Counter()
    last_at: dict[str, float] = {}
    for each in failures:
        for raw, (count, at) in each.items():
            error_type = text_of(raw)
            total[error_type] += count
            last_at[error_type] = max(at, last_at.get(error_type, 0.0))
    shown = dict(total.most_common(FAILURE_TYPES))
    others += total.total() - sum(shown.values())
    failed_at = {error_type: last_at[error_type] for error_type in shown}
    if others:
        shown[OTHER] = shown.get(OTHER, 0) + others
    return shown, failed_at


def _folded_exchanges(exchanges: Mapping[bytes, list[int]]) -> tuple[ExchangeMetrics, ...]:
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for name, rows in exchanges.items():
        by_name[text_of(name)] += rows
    return tuple(
        ExchangeMetrics(name, _named(PUBLISH_OUTCOMES, words), words[ExchangeWord.BYTES_SENT])
        for name, words in ((name, summed(rows, layout.EXCHANGE_WORDS)) for name, rows in sorted(by_name.items()))
    )


def _queue_facts(rows: Mapping[tuple[str, str], Sequence[Row]]) -> tuple[QueueFacts, ...]:
    """Return the newest facts of each queue that was ever looked at.

    While a worker has any handler, no worker looks at the queues of former code any more: their facts only grow old.
    """
    present = {queue for (queue, _), of_queue in rows.items() if any(row.word(RowWord.SLOTS) for row in of_queue)}
    newest: dict[str, Row] = {}
    for (queue, _), of_queue in rows.items():
        if present and queue not in present:
            continue
        newest[queue] = max([*of_queue, newest.get(queue, of_queue[0])], key=_looked_at)
    return tuple(_facts(queue, row) for queue, row in newest.items() if _looked_at(row))


def _looked_at(row: Row) -> float:
    return row.seconds[RowSeconds.LOOKED_AT]


def _facts(queue: str, row: Row) -> QueueFacts:
    words = summed([row.words], RowWord.QUARANTINED + 1)[RowWord.READY :]
    ready, consumers, retry_waiting, dead_letters, quarantined = (word - 1 if word else None for word in words)
    return QueueFacts(queue, ready, consumers, retry_waiting, dead_letters, quarantined, _looked_at(row))


def _process(slot: ReadSlot, words: Words, seconds: Seconds, rows: Sequence[Row]) -> ProcessMetrics:
    totals = summed([row.words for row in rows], RowWord.STUCK + 1)
    return ProcessMetrics(
        slot=slot.number,
        outcomes=_named(OUTCOMES, totals),
        busy_s=sum([row.seconds[RowSeconds.BUSY] for row in rows]),
        slots=totals[RowWord.SLOTS],
        in_flight=totals[RowWord.IN_FLIGHT],
        prefetched=totals[RowWord.PREFETCHED],
        stuck=totals[RowWord.STUCK],
        loop_lag_s=seconds[ProcessSeconds.LOOP_LAG],
        rss_bytes=min(slot.words[Word.RSS_BYTES], MOST),
        cpu_s=seconds[ProcessSeconds.CPU],
        log_lines_dropped=words[ProcessWord.LOG_LINES_DROPPED],
        publish_in_flight=words[ProcessWord.PUBLISH_IN_FLIGHT],
        publish_waiting_for=_named(_CAUSES, words, ProcessWord.PUBLISH_WAITING),
        is_publish_blocked=bool(words[ProcessWord.IS_PUBLISH_BLOCKED]),
        connections=_named(_CONNECTIONS, words, ProcessWord.CONNECTIONS),
        channels=_named(_CHANNELS, words, ProcessWord.CHANNELS),
        borrowed_channels=words[ProcessWord.BORROWED_CHANNELS],
        reconnects=_named(_LOSSES, words, ProcessWord.RECONNECTS),
        pool_wait=_histogram(words, ProcessWord.POOL_WAIT, seconds[ProcessSeconds.POOL_WAIT]),
        confirm_duration=_histogram(words, ProcessWord.CONFIRM, seconds[ProcessSeconds.CONFIRM]),
    )
