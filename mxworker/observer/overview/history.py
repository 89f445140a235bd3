"""What the observer remembers of the last quarter of an hour: rates, quantiles, and the points of the small curves.

It is told of the metrics once a second, and keeps all in memory, so a new observer begins with nothing. Bounds: what
`control.rates` keeps, and 90 points for the service and for each queue.

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from mxworker.board.metric_values import Histogram, ServiceMetrics
from mxworker.control.rates import Look, Rates
from mxworker.observer.overview.view import View

LONGEST_S = 900.0
STEP_S = 10.0
POINTS = round(LONGEST_S / STEP_S)
NOW_S = 5.0
MINUTE_S = 60.0
FIVE_MINUTES_S = 300.0
FAILED = ("requeue", "retry", "reject", "decode_error", "timeout", "quarantine")
"""The outcomes of deliveries that failed. A stale delivery has not failed: it comes again."""
ENDED = ("ack", *FAILED)


@dataclass(frozen=True, slots=True)
class QueuePoint:
    """One queue in one step of the curves."""

    ended_per_s: float
    ready: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """The service in one step of the curves."""

    at_unix_s: float
    ended_per_s: float
    failed_per_s: float
    published_per_s: float
    in_flight: int
    queues: Mapping[str, QueuePoint]


class History:
    """The history of one service."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.points: deque[Point] = deque(maxlen=POINTS)
        self._rates = Rates(LONGEST_S)
        self._last_at: float | None = None
        self._point_due_at = 0.0

    def add(self, view: View) -> None:
        """Take in a view. One of the same instant as the last is ignored."""
        if self._last_at is not None and view.now_s <= self._last_at:
            return
        self._rates.add(look_of(view))
        if self._last_at is None:
            self._point_due_at = view.now_s + STEP_S
        elif view.now_s >= self._point_due_at:
            self.points.append(self._point(view.metrics, view.now_unix_s))
            self._point_due_at = max(self._point_due_at + STEP_S, view.now_s)
        self._last_at = view.now_s

    def span_s(self, window_s: float) -> float:
        """Return the time over which figures for this window are taken: less than the window until it is known."""
        return self._rates.span_s(window_s)

    def per_s(self, window_s: float, *counters: Hashable) -> float | None:
        """Return by how much these counters grow in a second; None as long as there is no earlier look."""
        if not self._rates.span_s(window_s):
            return None
        return sum(self._rates.per_s(counter, window_s) or 0.0 for counter in counters)

    def grown(self, window_s: float, *counters: Hashable) -> int:
        """Return by how much these counters grew; 0 as long as there is no earlier look."""
        return round((self.per_s(window_s, *counters) or 0.0) * self._rates.span_s(window_s))

    def quantile(self, window_s: float, q: float, *histograms: Hashable) -> float | None:
        """Return a quantile of the values that were added to these histograms; None without values."""
        return self.added(window_s, *histograms).quantile(q)

    def added(self, window_s: float, *histograms: Hashable) -> Histogram:
        """Return the values that were added to these histograms."""
        total = Histogram()
        for name in histograms:
            grown = self._rates.grown(name, window_s)
            if grown is not None:
                total += Histogram(tuple(map(int, grown[:-1])), grown[-1])
        return total

    def _point(self, metrics: ServiceMetrics, now_unix_s: float) -> Point:
        ready = {facts.queue: facts.ready for facts in metrics.queues if not facts.is_old(now_unix_s)}
        pairs = [(row.queue, row.handler) for row in metrics.consumers]
        ended = {pair: self.per_s(STEP_S, ("ended", *pair)) or 0.0 for pair in pairs}
        queues: dict[str, float] = {}
        for (queue, _), per_s in ended.items():
            queues[queue] = queues.get(queue, 0.0) + per_s
        return Point(
            now_unix_s,
            sum(ended.values()),
            self.per_s(STEP_S, *(("failed", *pair) for pair in pairs)) or 0.0,
            self.per_s(STEP_S, *(("published", row.exchange, "confirmed") for row in metrics.exchanges)) or 0.0,
            sum(row.in_flight for row in metrics.consumers),
            {queue: QueuePoint(per_s, ready.get(queue)) for queue, per_s in queues.items()},
        )


def look_of(view: View) -> Look:
    """Return the counters and histograms of a service by name. The first part of a name says what it is."""
    service, metrics = view.service, view.metrics
    counters: dict[Hashable, float] = {("restarts", worker.slot): worker.restarts for worker in service.workers}
    histograms: dict[Hashable, tuple[float, ...]] = {}
    for row in metrics.consumers:
        pair = (row.queue, row.handler)
        failed = sum(row.outcomes.get(outcome, 0) for outcome in FAILED)
        counters["failed", *pair] = failed
        counters["ended", *pair] = failed + row.outcomes.get("ack", 0)
        counters["busy", *pair] = row.busy_s
        counters |= {("failures", *pair, error): count for error, count in row.failures.items()}
        histograms["duration", *pair] = _numbers(row.duration)
        histograms["age", *pair] = _numbers(row.age)
    for exchange in metrics.exchanges:
        counters |= {("published", exchange.exchange, outcome): n for outcome, n in exchange.outcomes.items()}
    for process in metrics.processes:
        counters["ended by worker", process.slot] = sum(process.outcomes.get(outcome, 0) for outcome in ENDED)
        counters["cpu", process.slot] = process.cpu_s
        counters["log lines dropped", process.slot] = process.log_lines_dropped
        histograms["confirm", process.slot] = _numbers(process.confirm_duration)
        histograms["pool wait", process.slot] = _numbers(process.pool_wait)
    return Look(view.now_s, (service.pid, service.started_at_unix_s), counters, histograms)


def _numbers(histogram: Histogram) -> tuple[float, ...]:
    return (*histogram.counts, histogram.sum_s)
