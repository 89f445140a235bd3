"""Facts of services that never ran: what the observer would know of them in each state, with 15 minutes of history."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from mxworker.board.metric_values import (
    ConsumerMetrics,
    ExchangeMetrics,
    Histogram,
    ProcessMetrics,
    QueueFacts,
    ServiceMetrics,
)
from mxworker.control.status import (
    LinkStatus,
    PausedStatus,
    ReloadStatus,
    ServiceStatus,
    UnconsumedStatus,
    WorkerStatus,
)
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.history import History
from mxworker.observer.overview.view import View

NOW_UNIX_S = 1_795_960_931.0  # 2026-11-29 14:02:11 UTC
BEGAN_UNIX_S = NOW_UNIX_S - 11_645.0
WARM_UP_S = 910
BROKER = "RabbitMQ 4.0.5 at rabbit.internal:5672"

Outcomes = Mapping[str, int]


def worker(slot: int, **facts: Any) -> WorkerStatus:
    """Return a worker that works, with these facts changed."""
    healthy = WorkerStatus(
        slot=slot,
        pid=4100 + slot,
        state="running",
        consuming="ready",
        reason="beat",
        generation=1,
        uptime_s=11_640.0,
        heartbeat_late_s=0.0,
        rss_bytes=58_300_000 + slot * 700_000,
        in_flight=0,
        acked=0,
        requeued=0,
        retried=0,
        rejected=0,
        stale=0,
        undecodable=0,
        timed_out=0,
        quarantined=0,
        restarts=0,
        last_exit="",
    )
    return replace(healthy, **facts)


def service(*workers: WorkerStatus, **facts: Any) -> ServiceStatus:
    """Return a service that is ready, with these facts changed."""
    ready = sum(each.consuming == "ready" for each in workers)
    healthy = ServiceStatus(
        name="shop-app",
        version="0.1.0",
        pid=4100,
        state="running",
        started_at_unix_s=BEGAN_UNIX_S,
        uptime_s=NOW_UNIX_S - BEGAN_UNIX_S,
        generation=1,
        workers_wanted=len(workers),
        workers_ready=ready,
        unhealthy_because="",
        unready_because="",
        reload=ReloadStatus("none", 1, "", ""),
        paused=PausedStatus(False, ()),
        run_alone=(),
        log_level="INFO",
        workers=workers,
        links=tuple(link(role, len(workers)) for role in ("consume", "publish")),
    )
    return replace(healthy, **facts)


def link(role: str, workers: int, state: str = "up", why: str = BROKER, since_s_ago: float = 11_640.0) -> LinkStatus:
    """Return the connections of some workers."""
    return LinkStatus(role, state, why, workers, NOW_UNIX_S - since_s_ago)


def consumer(queue: str, handler: str, outcomes: Outcomes, **facts: Any) -> ConsumerMetrics:
    """Return a handler whose deliveries ended so."""
    ended = sum(outcomes.values())
    healthy = ConsumerMetrics(
        queue=queue,
        handler=handler,
        outcomes=outcomes,
        failures={},
        failed_at={},
        redelivered=0,
        bytes_received=ended * 812,
        duration=spread(ended, 0.018),
        wait=spread(ended, 0.003),
        age=spread(ended, 0.09),
        end_to_end=spread(ended, 0.2),
        busy_s=ended * 0.021,
        slots=16,
        in_flight=0,
        prefetched=0,
        stuck=0,
        paused=0,
        is_paused=False,
        last_delivery_unix_s=NOW_UNIX_S - 0.2,
        objective_s=None,
    )
    return replace(healthy, **facts)


def spread(count: int, around_s: float) -> Histogram:
    """Return a histogram of `count` values, most of them close to one."""
    once = Histogram.of(*(around_s * factor for factor in (0.4, 0.7, 0.9, 1, 1, 1.1, 1.3, 1.6, 2.2, 4.5)))
    return Histogram(tuple(part * count // 10 for part in once.counts), around_s * count)


def process(slot: int, outcomes: Outcomes, **facts: Any) -> ProcessMetrics:
    """Return the metrics of one worker."""
    ended = sum(outcomes.values())
    healthy = ProcessMetrics(
        slot=slot,
        outcomes=outcomes,
        busy_s=ended * 0.021,
        slots=24,
        in_flight=0,
        prefetched=0,
        stuck=0,
        loop_lag_s=0.0012,
        rss_bytes=58_300_000,
        cpu_s=ended * 0.0011,
        log_lines_dropped=0,
        publish_in_flight=0,
        publish_waiting_for={},
        is_publish_blocked=False,
        connections={("consume", "active"): 1, ("publish", "active"): 1},
        channels={("consume", "active"): 3, ("publish", "active"): 1},
        borrowed_channels=0,
        reconnects={},
        pool_wait=Histogram(),
        confirm_duration=spread(ended // 2, 0.004),
    )
    return replace(healthy, **facts)


def depth(queue: str, ready: int | None = 0, **facts: int | None) -> QueueFacts:
    """Return what the broker said of a queue."""
    counts = {"consumers": 2, "retry_waiting": 0, "dead_letters": 0, "quarantined": 0, **facts}
    return QueueFacts(queue, ready, looked_at_unix_s=NOW_UNIX_S - 2, **counts)


def observed(status: ServiceStatus, metrics_at: Callable[[float], ServiceMetrics]) -> Facts:
    """Return what is known after 15 minutes of looks; `metrics_at` gets the seconds since the first of them."""
    history = History()
    for second in (*range(0, WARM_UP_S - 60, 10), *range(WARM_UP_S - 60, WARM_UP_S + 1)):
        history.add(view(status, metrics_at(second), second - WARM_UP_S))
    return Facts.of(view(status, metrics_at(WARM_UP_S)), history)


def view(status: ServiceStatus, metrics: ServiceMetrics, later_s: float = 0) -> View:
    """Return what is known some seconds after the present, or before."""
    return View(NOW_UNIX_S + later_s, WARM_UP_S + later_s, metrics, status, told_s_ago=0.1)


def later(facts: Facts, status: ServiceStatus, metrics_at: Callable[[int], ServiceMetrics], for_s: int) -> Facts:
    """Return what is known some seconds later, when the service was looked at each second."""
    history = copy.deepcopy(facts.history)
    for second in range(1, for_s + 1):
        history.add(view(status, metrics_at(second), second))
    return Facts.of(view(status, metrics_at(for_s), for_s), history)


def wave(second: float, per_s: float, phase: float = 0.0) -> int:
    """Return how much a counter has grown that grows by about `per_s` in a second."""
    return int(per_s * (second + 40 * (1 - math.cos(second / 90 + phase)) + 6 * math.sin(second / 17 + phase)))


# ---- the states


@cache
def idle() -> Facts:
    """Two workers, three queues, and nothing to do for an hour."""

    def metrics_at(second: float) -> ServiceMetrics:
        rows = tuple(
            consumer(name, handler, {"ack": count}, last_delivery_unix_s=NOW_UNIX_S - 3700)
            for name, handler, count in (("orders", "order", 48_211), ("mails", "mail", 9_120), ("stock", "book", 0))
        )
        both = tuple(process(slot, {"ack": 28_600}) for slot in (1, 2))
        exchanges = (ExchangeMetrics("", {"confirmed": 18_240}, 14_800_000),)
        return ServiceMetrics(rows, exchanges, both, tuple(depth(row.queue) for row in rows))

    return observed(service(worker(1), worker(2)), metrics_at)


@cache
def load() -> Facts:
    """Four workers with much to do, and a few failures."""

    def metrics_at(second: float) -> ServiceMetrics:
        orders = {"ack": wave(second, 1840), "retry": wave(second, 2.4), "reject": wave(second, 0.03)}
        mails = {"ack": wave(second, 160, 1), "retry": wave(second, 1.1, 1), "timeout": wave(second, 0.1)}
        images = {"ack": wave(second, 24, 2)}
        rows = (
            consumer("images", "resize", images, in_flight=7, prefetched=12, slots=8, age=spread(images["ack"], 0.3)),
            consumer(
                "mails", "mail", mails, in_flight=21, prefetched=40, slots=40, objective_s=60.0, redelivered=17,
                failures={"SMTPServerDisconnected": mails["retry"], "TimeoutError": mails["timeout"]},
                failed_at={"SMTPServerDisconnected": NOW_UNIX_S - 3, "TimeoutError": NOW_UNIX_S - 41},
            ),
            consumer(
                "orders", "order", orders, in_flight=38, prefetched=212, slots=64, objective_s=5.0,
                failures={"PaymentDeclined": orders["retry"], "KeyError": orders["reject"]},
                failed_at={"PaymentDeclined": NOW_UNIX_S - 1, "KeyError": NOW_UNIX_S - 212},
            ),
        )  # fmt: skip
        each = {"ack": (orders["ack"] + mails["ack"] + images["ack"]) // 4}
        processes = tuple(
            process(slot, each, in_flight=16, prefetched=66, publish_in_flight=3) for slot in (1, 2, 3, 4)
        )
        exchanges = (
            ExchangeMetrics("", {"confirmed": wave(second, 310)}, wave(second, 260_000)),
            ExchangeMetrics("shop.events", {"confirmed": wave(second, 1840), "returned": 0}, wave(second, 900_000)),
        )
        backlog = max(0, round(900 + 800 * math.sin(second / 120)))
        queues = (
            depth("images", 31, consumers=4),
            depth("mails", 4, consumers=4, retry_waiting=12),
            depth("orders", backlog, consumers=4, retry_waiting=148, dead_letters=27),
        )
        return ServiceMetrics(rows, exchanges, processes, queues)

    return observed(service(*(worker(slot, in_flight=14 + slot) for slot in (1, 2, 3, 4))), metrics_at)


@cache
def degraded() -> Facts:
    """One queue is refused, worker 2 dies again and again, and the broker takes no publishes."""
    busy = load()
    refused = (
        "broker refused queue 'mails': 406 PRECONDITION_FAILED, x-queue-type is 'classic', code says 'quorum'.  "
        'Use Queue("mails", declare="passive") to accept the existing queue, or change the code.'
    )
    crashed = "killed by SIGSEGV (crash)"
    workers = (
        worker(1, consuming="degraded", in_flight=15),
        worker(2, pid=None, state="backoff", consuming="vacant", reason="crash", uptime_s=None, heartbeat_late_s=None,
               rss_bytes=None, restarts=0, last_exit=crashed),
        worker(3, consuming="degraded", in_flight=17),
        worker(4, consuming="degraded", in_flight=18),
    )  # fmt: skip
    status = service(
        *workers,
        unready_because=f"0 of 4 workers consume: {refused}",
        links=(
            link("consume", 3),
            link("publish", 2),
            link("publish", 1, "blocked", "low on memory", 95),
        ),
        unconsumed=(UnconsumedStatus("mails", "waiting", refused, 3, NOW_UNIX_S - 412),),
    )
    history = copy.deepcopy(busy.history)
    for second in range(1, 201):
        died = replace(workers[1], restarts=second // 28)
        status = replace(status, workers=(workers[0], died, *workers[2:]))
        history.add(view(status, _without_mails(busy.metrics, second), second))
    return Facts.of(view(status, _without_mails(busy.metrics, 200), 200), history)


def _without_mails(metrics: ServiceMetrics, second: int) -> ServiceMetrics:
    """Return the metrics some seconds later, without anything new of the mails; publishes wait."""

    def grown(row: ConsumerMetrics) -> ConsumerMetrics:
        if row.queue == "mails":
            return replace(row, in_flight=0, prefetched=0)
        more = second * (900 if row.queue == "orders" else 20)
        more_work = {name: getattr(row, name) + spread(more, 0.1) for name in ("duration", "age")}
        ended = {**row.outcomes, "ack": row.outcomes["ack"] + more}
        return replace(row, outcomes=ended, last_delivery_unix_s=NOW_UNIX_S + second, **more_work)

    first, *others = metrics.processes
    blocked = replace(
        first, is_publish_blocked=True, publish_in_flight=256, publish_waiting_for={"room": 112, "window": 41}
    )
    queues = tuple(
        replace(each, ready=9_412 + second * 31) if each.queue == "mails" else each for each in metrics.queues
    )
    return ServiceMetrics(tuple(map(grown, metrics.consumers)), metrics.exchanges, (blocked, *others), queues)


@cache
def draining() -> Facts:
    """A stop was asked for, and three handlers still run."""
    busy = load()
    workers = (
        worker(1, consuming="draining", state="stopping", reason="stop", in_flight=2),
        worker(2, pid=None, state="empty", consuming="vacant", uptime_s=None),
        worker(3, consuming="draining", state="stopping", reason="stop", in_flight=1),
        worker(4, pid=None, state="empty", consuming="vacant", uptime_s=None),
    )
    status = service(*workers, state="stopping", unready_because="the service is stopping", drain_left_s=12.3)
    left = {"images": 1, "orders": 2, "mails": 0}
    rows = tuple(replace(row, in_flight=left[row.queue], prefetched=0) for row in busy.metrics.consumers)
    metrics = replace(busy.metrics, consumers=rows)
    return later(busy, status, lambda second: metrics, 20)


@cache
def lost_broker() -> Facts:
    """The broker went away three minutes ago."""
    busy = load()
    why = "cannot connect: connection refused"
    workers = tuple(worker(slot, consuming="connecting") for slot in (1, 2, 3, 4))
    down = tuple(link(role, 4, "down", why, 72) for role in ("consume", "publish"))
    status = service(*workers, links=down, unready_because=f"0 of 4 workers consume: {why}")
    rows = tuple(replace(row, in_flight=0, prefetched=0) for row in busy.metrics.consumers)
    metrics = replace(
        busy.metrics, consumers=rows, queues=tuple(replace(each, consumers=None) for each in busy.metrics.queues)
    )
    return later(busy, status, lambda second: metrics, 120)


def renamed(facts: Facts, name: str) -> Facts:
    """Return the facts with this name for everything that others name."""
    metrics, status = facts.metrics, facts.service
    rows = tuple(replace(row, queue=name, handler=name, failures={name: 9_999}) for row in metrics.consumers)
    exchanges = tuple(replace(row, exchange=name) for row in metrics.exchanges)
    queues = tuple(replace(row, queue=name) for row in metrics.queues)
    workers = tuple(replace(each, last_exit=name, state=name) for each in status.workers)
    links = tuple(replace(each, why=name, role=name, state=name) for each in status.links)
    unconsumed = tuple(UnconsumedStatus(name, state, name, 1, 0) for state in ("waiting", "paused"))
    status = replace(status, name=name, workers=workers, links=links, unconsumed=unconsumed, run_alone=(name,))
    return later(
        facts, status, lambda second: replace(metrics, consumers=rows, exchanges=exchanges, queues=queues), 201
    )


STATES = {"idle": idle, "load": load, "degraded": degraded, "draining": draining, "lost broker": lost_broker}
