"""The metrics of a service agree with what its handlers have written down, whatever became of its workers.

A handler writes to the ledger as its last act, and its delivery is counted in the same step of its task. So a kill
between the two leaves one delivery in the ledger that was not counted, and never one that was counted only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mxworker.board.metric_values import ConsumerMetrics, ServiceMetrics
from mxworker.control.client import ask
from mxworker.control.metrics_json import metrics_of
from mxworker.control.protocol import Metrics
from tests.broker.apps import Recorded
from tests.harness import ledger
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.node import Node

WORKERS = 2
CONCURRENCY = 16
_ANSWER_WITHIN_S = 30.0


class Looks:
    """The metrics of a service, asked for again and again. No counter may go down."""

    def __init__(self, service: Service) -> None:
        (self._socket,) = Path(service.runtime_directory).rglob("*.sock")
        self._last: dict[str, float] = {}
        self.count = 0

    def look(self) -> ServiceMetrics:
        answer = ask(self._socket, Metrics(), time.monotonic() + _ANSWER_WITHIN_S)
        metrics = metrics_of(answer["metrics"])
        counters = dict(counters_in(metrics))
        fallen = {
            name: (self._last[name], value) for name, value in counters.items() if value < self._last.get(name, 0)
        }
        assert not fallen
        assert self._last.keys() <= counters.keys()
        self._last = counters
        self.count += 1
        return metrics

    def handler(self) -> ConsumerMetrics:
        """Return the metrics of the only handler."""
        (consumer,) = self.look().consumers
        return consumer


def counters_in(metrics: ServiceMetrics) -> Iterator[tuple[str, float]]:
    """Yield all counters by name."""
    for consumer in metrics.consumers:
        yield from ((f"{consumer.queue} {name}", count) for name, count in consumer.outcomes.items())
        yield from ((f"{consumer.queue} {name}", count) for name, count in consumer.failures.items())
        for field in ("duration", "wait", "age", "end_to_end"):
            histogram = getattr(consumer, field)
            yield from ((f"{consumer.queue} {field} {index}", count) for index, count in enumerate(histogram.counts))
            yield f"{consumer.queue} {field} sum", histogram.sum_s
        yield f"{consumer.queue} redelivered", consumer.redelivered
        yield f"{consumer.queue} bytes", consumer.bytes_received
        yield f"{consumer.queue} busy", consumer.busy_s
    for process in metrics.processes:
        yield f"cpu {process.slot}", process.cpu_s


@pytest.mark.parametrize("has_kills", [False, True], ids=["recycles", "kills and recycles"])
def test_totals_equal_the_ledger_of_the_handlers(
    recorded: Recorded, node: Node, rng: random.Random, scale: Callable[[int, int], int], has_kills: bool
) -> None:
    messages, recycles = scale(5_000, 50_000), scale(2, 20)
    kills = recycles if has_kills else 0
    recorded.publish(messages)
    most = messages // (10 * recycles)  # a worker works on until its replacement is ready, and a kill begins anew
    flags = (f"--workers={WORKERS}", f"--max-messages={most}", "--log-format=json")
    with recorded.service(*flags, work_s=0.05, concurrency=CONCURRENCY) as service:
        service.wait_for_event("service_ready")
        looks = Looks(service)
        for kill in range(1, kills + 1):
            due = 2 * messages * kill // (kills + 1)
            wait_until(lambda due=due: looks.look() and recorded.handled >= due and service.workers(), 120, f"{due}")
            service.kill_worker(rng)
        wait_until(lambda: looks.look() and recorded.handled >= 2 * messages, 240, "all messages")
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
        recorded.wait_until_settled(node)
        wait_until(lambda: looks.handler().in_flight == 0, 10, "nothing in flight")
        received = sum(len(id_) for id_ in recorded.ids)  # at least, with those that went back at a recycle
        if not kills:  # a heartbeat writes it
            wait_until(lambda: looks.handler().bytes_received >= received, 10, "all bytes")
        at_end = looks.handler()
        recycled = len(service.events("recycle_wished"))
        service.stop()
    events = [record.event for record in recorded.records]
    started, finished = events.count(ledger.START), events.count(ledger.FINISH)
    ended = at_end.outcomes["ack"] + at_end.outcomes["stale"]
    print(f"{kills} kills, {recycled} recycles, {looks.count} looks: {finished} finished, {ended} counted; {at_end}")
    assert recycled >= recycles
    assert 0 <= finished - ended <= kills
    assert 0 <= finished - at_end.duration.count <= kills
    assert 0 <= at_end.wait.count - started <= kills
    assert sum(at_end.outcomes.values()) == ended
    if not kills:
        assert (ended, at_end.duration.count, at_end.wait.count) == (messages, messages, messages)
    assert at_end.busy_s >= at_end.duration.sum_s * 0.5
