"""The metrics of a process that are written once a second, by its heartbeat: gauges, and sums of what goes on.

A count that is as large as a word can be was overwritten, and stays. The master replaces such a process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.amqp.publishing.stats import PublisherStats
from mxworker.board.metric_rows import MetricRows, observe
from mxworker.board.metrics_layout import (
    Cause,
    ChannelState,
    ConnectionState,
    Loss,
    ProcessSeconds,
    ProcessWord,
    Role,
    RowSeconds,
    RowWord,
)
from mxworker.system.log import lines_dropped
from mxworker.worker.handling.handler_runner import HandlerRunner

_PAIR = tuple[HandlerRunner, Consumer]


class WorkerMetrics:
    """Writes the metrics of one process. Belongs to one event loop."""

    def __init__(
        self,
        rows: MetricRows,
        pool: Pool,
        publisher: Publisher,
        runners: Sequence[HandlerRunner],
        consumers: Sequence[Consumer],
    ) -> None:
        """`runners` and `consumers`, one of each for a handler, may be filled later."""
        self._rows = rows
        self._pool = pool
        self._publisher = publisher
        self._runners = runners
        self._consumers = consumers
        self._rows_used: dict[int, list[_PAIR]] = {}  # by the number of the row, which nearly always has one handler
        # On which channel deliveries had come at the last write, and how many.
        self._delivered: dict[HandlerRunner, tuple[object, int]] = {}
        self._cpu_before_s = rows.process_seconds[ProcessSeconds.CPU]
        self._dropped_before = rows.process[ProcessWord.LOG_LINES_DROPPED]

    def write(self) -> None:
        """Write all. Call at each heartbeat, and last before the process ends."""
        with suppress(ValueError):
            self._write()

    def _write(self) -> None:
        for pairs in self._by_row().values():
            self._write_handlers(pairs)
        process, seconds = self._rows.process, self._rows.process_seconds
        seconds[ProcessSeconds.CPU] = self._cpu_before_s + time.process_time()
        process[ProcessWord.LOG_LINES_DROPPED] = self._dropped_before + lines_dropped()
        published = self._publisher.stats
        self._write_publisher(published)
        self._write_connections(published.open_channels)

    def _by_row(self) -> dict[int, list[_PAIR]]:
        """Return the handlers by their rows, once they are made."""
        if not self._rows_used:
            for runner, consumer in zip(self._runners, self._consumers, strict=False):
                if runner.metrics is not None:
                    self._rows_used.setdefault(runner.metrics.row.number, []).append((runner, consumer))
        return self._rows_used

    def _write_handlers(self, pairs: Sequence[_PAIR]) -> None:
        """Write the metrics of the handlers of one row."""
        for runner, consumer in pairs:
            if runner.metrics is not None:
                delivered = (consumer.subscription, consumer.delivered)
                runner.metrics.write(runner.running_s, delivered != self._delivered.get(runner, (None, 0)))
                self._delivered[runner] = delivered
                row = runner.metrics.row
        row.words[RowWord.SLOTS] = sum(runner.handler.concurrency for runner, _ in pairs)
        row.words[RowWord.IN_FLIGHT] = sum(runner.in_flight for runner, _ in pairs)
        row.words[RowWord.PREFETCHED] = sum(runner.waiting for runner, _ in pairs)
        row.words[RowWord.STUCK] = sum(runner.stuck for runner, _ in pairs)
        row.words[RowWord.IS_PAUSED] = all(consumer.pause_reasons for _, consumer in pairs)
        row.words[RowWord.IS_CONSUMED] = any(consumer.is_consuming for _, consumer in pairs)
        row.seconds[RowSeconds.OBJECTIVE] = min((runner.handler.objective_s or 0.0 for runner, _ in pairs))

    def _write_publisher(self, stats: PublisherStats) -> None:
        process = self._rows.process
        process[ProcessWord.PUBLISH_IN_FLIGHT] = stats.in_flight
        process[ProcessWord.IS_PUBLISH_BLOCKED] = stats.is_blocked
        for cause in Cause:
            process[ProcessWord.PUBLISH_WAITING + cause] = stats.waiting_for[cause.label]

    def _write_connections(self, publishing: int) -> None:
        """Write the numbers of connections and channels; `publishing` is the number of the publisher's channels."""
        process = self._rows.process
        process[ProcessWord.BORROWED_CHANNELS] = self._pool.stats().borrowed_channels
        consumed = [consumer.subscription for consumer in self._consumers if consumer.subscription is not None]
        subscribed = [subscription for subscription in consumed if not subscription.is_lost]
        busy = sum(subscription.is_consumed for subscription in subscribed)
        counts = {
            Role.CONSUME: (_of_link(self._pool.consume_link.live), (busy, len(subscribed) - busy)),
            Role.PUBLISH: (_of_link(self._pool.publish_link.live), (publishing, 0)),
            Role.HANDLERS: (self._pool.lent_connections, self._pool.lent_channels),
        }
        for role, (connections, channels) in counts.items():
            for state in ConnectionState:
                process[ProcessWord.CONNECTIONS + role * len(ConnectionState) + state] = connections[state]
            for channel_state in ChannelState:
                process[ProcessWord.CHANNELS + role * len(ChannelState) + channel_state] = channels[channel_state]

    # ---- called when it happens

    def note_loss(self, connection: BrokerConnection) -> None:
        """Count a connection that was lost, and is made anew."""
        with suppress(ValueError):
            self._rows.process[ProcessWord.RECONNECTS + _kind_of(connection)] += 1

    def note_borrowed(self, waited_s: float) -> None:
        """Count a channel that a handler has borrowed."""
        rows = self._rows
        with suppress(ValueError):
            observe(rows.process, ProcessWord.POOL_WAIT, rows.process_seconds, ProcessSeconds.POOL_WAIT, waited_s)


def _of_link(live: BrokerConnection | None) -> tuple[int, int, int]:
    return (0, 0, 1) if live is None else (1, 0, 0)


def _kind_of(connection: BrokerConnection) -> Loss:
    plane = connection.plane
    if plane.was_silent:
        return Loss.SILENT
    if plane.frames.close_reason is not None:
        return Loss.CLOSED_BY_BROKER
    return Loss.CLOSED_BY_US if plane.was_aborted else Loss.LOST
