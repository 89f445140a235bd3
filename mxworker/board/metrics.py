"""Reading the metrics of all slots: `fold` sums them up by name.

Pure, but for the memory that `metric_reading` reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from mxworker.board import metrics_layout as layout
from mxworker.board.layout import Word
from mxworker.board.metric_reading import (
    UNCOUNTABLE,
    Failures,
    ReadSlot,
    Row,
    Words,
    exchanges_in,
    former_of,
    former_row_in,
    pair_of,
    read_failures,
    rows_in,
    rows_written,
    seconds_in,
    text_of,
    words_in,
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

_MOST = (1 << 63) - 1  # of a sum: JSON holds no more


class ReadBoard(Protocol):
    """The part of `page.Board` that is read here."""

    @property
    def used(self) -> Iterable[ReadSlot]:
        """The slots that ever had a process."""


def fold(board: ReadBoard) -> ServiceMetrics:
    """Return the metrics of all slots, summed up by name."""
    rows: defaultdict[bytes, list[Row]] = defaultdict(list)
    exchanges: defaultdict[bytes, list[Words]] = defaultdict(list)
    failures: defaultdict[bytes, Failures] = defaultdict(lambda: Failures(Counter(), {}))
    processes = []
    for slot in board.used:
        area = slot.metrics
        words = words_in(area, 0, layout.PROCESS_WORDS)
        seconds = seconds_in(area, layout.PROCESS_WORDS - layout.SECONDS, layout.SECONDS)
        own_rows = rows_in(area, words)
        for name, row in own_rows:
            rows[name].append(row)
        for exchange, counts in exchanges_in(area, words):
            exchanges[exchange].append(counts)
        read_failures(area, words, failures)
        counted = [row for _, row in own_rows] + former_row_in(area, words)
        processes.append(_process(slot, Row(words, seconds), counted))
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
    used = min(words_in(area, ProcessWord.ROWS_USED * layout.WORD_BYTES, 1)[0], layout.ROWS)
    end = layout.ROWS_AT + rows_written(used) * layout.ROW_WORDS * layout.WORD_BYTES
    words = area[layout.ROWS_AT : end].cast("Q")
    return [min(_counted(words[outcome :: layout.ROW_WORDS].tolist()), _MOST) for outcome in Outcome]


def _counted(words: Words) -> int:
    """Return the sum of words, without those that cannot have come about by counting."""
    return sum(words) if max(words, default=0) < UNCOUNTABLE else sum(word for word in words if word < UNCOUNTABLE)


# ---- from words to values


def _summed(rows: Sequence[Words]) -> Words:
    if len(rows) == 1:
        return rows[0]
    totals = list(map(sum, zip(*rows, strict=True)))
    return totals if max(totals) <= _MOST else [min(total, _MOST) for total in totals]


def _histogram(words: Words, at: int, sum_s: float) -> Histogram:
    return Histogram(tuple(words[at : at + BUCKETS]), sum_s)


def _consumer(names: tuple[str, str], rows: Sequence[Row], failures: Sequence[Failures]) -> ConsumerMetrics:
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


def _most_frequent(failures: Sequence[Failures], others: int) -> tuple[dict[str, int], dict[str, float]]:
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
        by_name[text_of(name)] += rows
    return tuple(
        ExchangeMetrics(name, dict(zip(PUBLISH_OUTCOMES, words, strict=False)), words[ExchangeWord.BYTES_SENT])
        for name, words in ((name, _summed(rows)) for name, rows in sorted(by_name.items()))
    )


def _queue_facts(rows: Mapping[tuple[str, str], Sequence[Row]]) -> tuple[QueueFacts, ...]:
    """Return the newest facts of each queue that was ever looked at.

    While a worker has any handler, no worker looks at the queues of former code any more: their facts only grow old.
    """
    present = {queue for (queue, _), of_queue in rows.items() if any(row.words[RowWord.SLOTS] for row in of_queue)}
    newest: dict[str, Row] = {}
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


def _process(slot: ReadSlot, process: Row, rows: Sequence[Row]) -> ProcessMetrics:
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
