"""The metrics of a service as values: what `metrics.fold` makes of the board.

Counters count from the start of the service. Gauges are sums over the workers that live now.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from operator import add, sub

from mxworker.board.metrics_layout import BOUNDS_S, BUCKETS

OLD_S = 60.0
"""For how long an answer of the broker holds. The next worker asks sooner, when the one that asked hangs or dies."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell between two bounds of `BOUNDS_S`: `counts` has a number for each bound, and the rest.

    A value on a bound belongs below it. The counts are not cumulative. `sum_s` is the sum of all values.
    """

    counts: tuple[int, ...] = (0,) * BUCKETS
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Return the estimated value in seconds below which the share `q` of the values lies; None without values.

        Values are taken to be spread evenly between two bounds, as in Prometheus' histogram_quantile. A quantile above
        the last bound is the last bound.
        """
        rank = q * self.count
        if not self.count:
            return None
        below = 0
        for index, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                start_s = BOUNDS_S[index - 1] if index else 0.0
                return start_s + (BOUNDS_S[index] - start_s) * max(0.0, rank - below) / count
            below += count
        return float(BOUNDS_S[-1])

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of the values of both."""
        return Histogram(tuple(map(add, self.counts, other.counts)), self.sum_s + other.sum_s)

    def __sub__(self, earlier: Histogram) -> Histogram:
        """Return the histogram of the values that came since `earlier`. No count is below 0."""
        counts = tuple(max(0, count) for count in map(sub, self.counts, earlier.counts))
        return Histogram(counts, max(0.0, self.sum_s - earlier.sum_s))

    @classmethod
    def of(cls, *values_s: float) -> Histogram:
        """Return the histogram of these values."""
        counts = [0] * BUCKETS
        for value_s in values_s:
            counts[bisect_left(BOUNDS_S, value_s)] += 1
        return cls(tuple(counts), float(sum(values_s)))


@dataclass(frozen=True, slots=True)
class ConsumerMetrics:
    """One handler with its queue, over all workers. Handlers beyond the 64th of a worker are together in `other`."""

    queue: str
    handler: str
    outcomes: Mapping[str, int]
    """Deliveries by how they ended: ack, requeue, retry, reject, decode_error, timeout, stale, quarantine."""
    failures: Mapping[str, int]
    """Failed executions by the type of the error: the 50 most frequent, and "other"."""
    failed_at: Mapping[str, float]
    """When an error of each of these types came last, in seconds since 1970."""
    redelivered: int
    bytes_received: int
    duration: Histogram
    """The time that the handler ran, once for each delivery or batch."""
    wait: Histogram
    """The time that a delivery waited in its process before its handler began."""
    age: Histogram
    """The time since the publish by the message's `timestamp_in_ms` or `timestamp`, when its handler begins."""
    end_to_end: Histogram
    """The time from that publish to the ack, through all retries."""
    busy_s: float
    """The time for which the handler has run, including the runs that have not ended."""
    slots: int
    """How many deliveries or batches may run at once."""
    in_flight: int
    """Deliveries that were started and are not settled."""
    prefetched: int
    """Deliveries that wait in a worker for their handler."""
    stuck: int
    """Runs that did not stop when their time was up."""
    paused: int
    """In how many workers the queue is paused."""
    is_paused: bool
    """Whether the queue is paused in every worker that serves it."""
    last_delivery_unix_s: float
    """When a delivery came last; 0 before the first."""
    objective_s: float | None
    """The age that its messages should not exceed; None when the handler names none."""
    consuming: int = 0
    """How many workers consume the queue."""


@dataclass(frozen=True, slots=True)
class ExchangeMetrics:
    """One exchange, over all workers. Exchanges beyond the 64th of a worker are together in `other`."""

    exchange: str
    outcomes: Mapping[str, int]
    """Publishes by how they ended: confirmed, nacked, returned, unconfirmed, overflow, dropped."""
    bytes_sent: int
    """Bytes of the bodies of publishes that were confirmed."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the broker said of a queue when it was asked last. None is what is not known."""

    queue: str
    ready: int | None
    consumers: int | None
    retry_waiting: int | None
    dead_letters: int | None
    quarantined: int | None
    looked_at_unix_s: float

    def is_old(self, now_unix_s: float) -> bool:
        """Whether this must not be shown as what is in the queue now, because nobody could ask the broker since."""
        return now_unix_s - self.looked_at_unix_s > OLD_S


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """One slot. Counters cover all processes that the slot had; gauges are 0 while it has none."""

    slot: int
    outcomes: Mapping[str, int]
    """As in `ConsumerMetrics`, over all handlers."""
    busy_s: float
    slots: int
    in_flight: int
    prefetched: int
    stuck: int
    loop_lag_s: float
    """The longest time that the event loop took to answer, of the last 5 s."""
    rss_bytes: int
    cpu_s: float
    log_lines_dropped: int
    publish_in_flight: int
    publish_waiting_for: Mapping[str, int]
    """Publishes that wait, by cause: window, connection, room, exchange, same id, retry."""
    is_publish_blocked: bool
    connections: Mapping[tuple[str, str], int]
    """By role (consume, publish, handlers) and state (active, idle, connecting)."""
    channels: Mapping[tuple[str, str], int]
    """By role and state (active, idle)."""
    borrowed_channels: int
    reconnects: Mapping[str, int]
    """By reason: closed by broker, lost, silent, closed by us."""
    pool_wait: Histogram
    """The time that handlers waited for a borrowed channel."""
    confirm_duration: Histogram
    """The time from the acceptance of a publish to its confirm."""


@dataclass(frozen=True, slots=True)
class ServiceMetrics:
    """All metrics of a service, each kind in the order of its names or numbers."""

    consumers: tuple[ConsumerMetrics, ...]
    exchanges: tuple[ExchangeMetrics, ...]
    processes: tuple[ProcessMetrics, ...]
    queues: tuple[QueueFacts, ...]
