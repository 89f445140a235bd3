"""The families of metrics: names, labels and help texts, and their values in a `View`. Pure.

All names begin with `mxworker_`, and values are in base units. Labels are the queue, handler, exchange, outcome, slot
of a worker, reason and type of an error, and never anything of a message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from mxworker.board.metric_values import ConsumerMetrics, Histogram, ProcessMetrics, QueueFacts, ServiceMetrics
from mxworker.control.status import ServiceStatus
from mxworker.observer.overview.view import View
from mxworker.observer.scrape.family_kinds import Family, Labels, counter, gauge, histogram, info, sum_of, sums, total

_STATES = ("starting", "running", "stopping")


def families(view: View) -> Iterator[Family]:
    """Yield all families."""
    yield from _of_service(view.service)
    yield from _of_handlers(view.metrics.consumers)
    yield from _of_queues(view.metrics.consumers)
    yield from _of_broker(view.metrics.queues, view.now_unix_s)
    yield from _of_publishing(view.metrics)
    yield from _of_connections(view.metrics.processes)
    yield from _of_processes(view)


# ---- what the master knows


def _of_service(service: ServiceStatus) -> Iterator[Family]:
    yield info("mxworker_build", "The version of mxworker.", "version", service.version)
    yield gauge(
        "mxworker_service_state",
        "1 for the present state of the service, which is starting until a worker consumes all its queues.",
        "state",
        (((state,), float(service.state == state)) for state in _STATES),
    )
    living = [worker for worker in service.workers if worker.pid is not None]
    yield gauge(
        "mxworker_worker_up",
        "Whether the worker consumes from all its queues.",
        "worker",
        (((str(worker.slot),), float(worker.consuming == "ready")) for worker in living),
    )
    yield gauge(
        "mxworker_worker_heartbeat_age_seconds",
        "The time since the last heartbeat of the worker's event loop, which has one every second.",
        "worker",
        (((str(worker.slot),), worker.heartbeat_age_s) for worker in living if worker.heartbeat_age_s is not None),
    )
    yield counter(
        "mxworker_worker_restarts",
        "Workers that ended and were followed by another one.",
        "reason",
        (((reason,), count) for reason, count in service.restarts.items()),
    )
    yield counter(
        "mxworker_reloads",
        "Reloads that were done or refused.",
        "outcome",
        (((outcome,), count) for outcome, count in service.reloads.items()),
    )


# ---- what the workers count


def _of_handlers(consumers: Sequence[ConsumerMetrics]) -> Iterator[Family]:
    labels = "queue handler"
    yield counter(
        "mxworker_messages",
        "Deliveries by how they ended.",
        f"{labels} outcome",
        (
            ((each.queue, each.handler, outcome), count)
            for each in consumers
            for outcome, count in each.outcomes.items()
        ),
    )
    yield counter(
        "mxworker_failures",
        "Executions of a handler that failed, by the type of the error.",
        f"{labels} error_type",
        (((each.queue, each.handler, kind), count) for each in consumers for kind, count in each.failures.items()),
    )
    yield histogram(
        "mxworker_handler_duration_seconds",
        "The time that the handler ran, for each message or batch.",
        labels,
        (((each.queue, each.handler), each.duration) for each in consumers),
    )
    yield counter(
        "mxworker_handler_busy_seconds",
        "The time for which executions of the handler have run, those that still run included.",
        labels,
        (((each.queue, each.handler), each.busy_s) for each in consumers),
    )
    yield gauge(
        "mxworker_handler_slots",
        "How many executions of the handler may run at once.",
        labels,
        (((each.queue, each.handler), each.slots) for each in consumers),
    )
    yield gauge(
        "mxworker_message_age_objective_seconds",
        "The age that messages should not exceed when their handler is started, as its registration says.",
        labels,
        (((each.queue, each.handler), each.objective_s) for each in consumers if each.objective_s is not None),
    )


def _of_queues(consumers: Sequence[ConsumerMetrics]) -> Iterator[Family]:
    yield counter(
        "mxworker_redelivered",
        "Deliveries that the broker marked as redelivered.",
        "queue",
        _by_queue(consumers, lambda each: each.redelivered),
    )
    yield histogram(
        "mxworker_message_wait_seconds",
        "The time that a delivery waited in its process before its handler was started.",
        "queue",
        _histograms_by_queue(consumers, lambda each: each.wait),
    )
    yield histogram(
        "mxworker_message_age_seconds",
        "The time from the publish of a message to the start of its handler.",
        "queue",
        _histograms_by_queue(consumers, lambda each: each.age),
    )
    yield histogram(
        "mxworker_message_end_to_end_seconds",
        "The time from the first publish of a message to its success, through all retries.",
        "queue",
        _histograms_by_queue(consumers, lambda each: each.end_to_end),
    )
    yield gauge(
        "mxworker_in_flight",
        "Deliveries that were started and are not settled.",
        "queue",
        _by_queue(consumers, lambda each: each.in_flight),
    )
    yield gauge(
        "mxworker_prefetched",
        "Deliveries that wait in a worker for their handler.",
        "queue",
        _by_queue(consumers, lambda each: each.prefetched),
    )
    yield gauge(
        "mxworker_last_delivery_timestamp_seconds",
        "When a delivery came last; 0 before the first.",
        "queue",
        _by_queue(consumers, lambda each: each.last_delivery_unix_s, max),
    )
    yield gauge(
        "mxworker_consuming_workers",
        "Workers that consume the queue.",
        "queue",
        _by_queue(consumers, lambda each: each.consuming),
    )
    yield gauge(
        "mxworker_consumer_paused",
        "Whether the queue is paused in every worker.",
        "queue",
        _by_queue(consumers, lambda each: each.is_paused, min),
    )
    yield gauge(
        "mxworker_stuck_handlers",
        "Executions of handlers that did not stop when their time was up, and still run.",
        "queue",
        _by_queue(consumers, lambda each: each.stuck),
    )


def _of_broker(queues: Sequence[QueueFacts], now_unix_s: float) -> Iterator[Family]:
    """Yield what the broker said. A depth that is old has no sample: Prometheus would take it for the present one."""
    yield gauge(
        "mxworker_queue_last_answer_timestamp_seconds",
        "When the broker was last asked about the queue and answered.",
        "queue",
        (((each.queue,), each.looked_at_unix_s) for each in queues),
    )
    fresh = [each for each in queues if not each.is_old(now_unix_s)]
    facts: Sequence[tuple[str, str, Callable[[QueueFacts], int | None]]] = (
        ("ready", "Messages that are ready in the queue", lambda each: each.ready),
        ("consumers", "Consumers of the queue, those of other services included", lambda each: each.consumers),
        ("retry_waiting", "Messages that wait in the retry queues of the queue", lambda each: each.retry_waiting),
        ("dead_letters", "Messages in the dead-letter queue of the queue", lambda each: each.dead_letters),
        ("quarantined", "Messages in the quarantine of the queue", lambda each: each.quarantined),
    )
    for name, text, fact in facts:
        known = (((each.queue,), count) for each in fresh if (count := fact(each)) is not None)
        yield gauge(f"mxworker_queue_{name}", f"{text}, as the broker said within the last minute.", "queue", known)


def _of_publishing(metrics: ServiceMetrics) -> Iterator[Family]:
    processes, exchanges = metrics.processes, metrics.exchanges
    yield counter(
        "mxworker_published",
        "Publishes by how they ended.",
        "exchange outcome",
        (((each.exchange, outcome), count) for each in exchanges for outcome, count in each.outcomes.items()),
    )
    received = _by_queue(metrics.consumers, lambda each: each.bytes_received)
    yield counter(
        "mxworker_message_bytes",
        "Bytes of bodies that were received from a queue, or sent to an exchange and confirmed.",
        "queue exchange direction",
        [
            *(((queue, "", "received"), count) for (queue,), count in received),
            *((("", each.exchange, "sent"), each.bytes_sent) for each in exchanges),
        ],
    )
    yield histogram(
        "mxworker_publish_confirm_duration_seconds",
        "The time from the acceptance of a publish to its confirm.",
        "",
        [((), sum_of(each.confirm_duration for each in processes))],
    )
    yield total(
        "mxworker_publish_in_flight",
        "Publishes that were sent and have no outcome yet.",
        (each.publish_in_flight for each in processes),
    )
    yield gauge(
        "mxworker_publish_waiting",
        "Publishes that wait before they are sent, by what they wait for.",
        "reason",
        sums((_words(cause), count) for each in processes for cause, count in each.publish_waiting_for.items()),
    )
    yield total(
        "mxworker_publish_blocked",
        "Workers whose publishes the broker blocks.",
        (each.is_publish_blocked for each in processes),
    )


def _of_connections(processes: Sequence[ProcessMetrics]) -> Iterator[Family]:
    yield gauge(
        "mxworker_connections",
        "Connections to the broker.",
        "role state",
        sums((key, count) for each in processes for key, count in each.connections.items()),
    )
    yield gauge(
        "mxworker_channels",
        "AMQP channels on the connections to the broker.",
        "role state",
        sums((key, count) for each in processes for key, count in each.channels.items()),
    )
    yield total(
        "mxworker_borrowed_channels",
        "Channels that handlers have borrowed.",
        (each.borrowed_channels for each in processes),
    )
    yield counter(
        "mxworker_reconnects",
        "Connections that were made anew, by why the one before ended.",
        "reason",
        sums((_words(reason), count) for each in processes for reason, count in each.reconnects.items()),
    )
    yield histogram(
        "mxworker_pool_wait_seconds",
        "The time that handlers waited for a channel that they borrowed.",
        "",
        [((), sum_of(each.pool_wait for each in processes))],
    )


def _of_processes(view: View) -> Iterator[Family]:
    processes = view.metrics.processes
    pids = {worker.slot: worker.pid for worker in view.service.workers}
    living = [((str(each.slot),), each) for each in processes if pids.get(each.slot) is not None]
    yield gauge(
        "mxworker_event_loop_lag_seconds",
        "The longest time that the event loop of the worker took to answer, within the last 5 s.",
        "worker",
        ((label, each.loop_lag_s) for label, each in living),
    )
    yield gauge(
        "mxworker_worker_rss_bytes",
        "The resident memory of the worker.",
        "worker",
        ((label, each.rss_bytes) for label, each in living),
    )
    yield counter(
        "mxworker_worker_cpu_seconds",
        "The CPU time of the worker and of its predecessors in this slot.",
        "worker",
        (((str(each.slot),), each.cpu_s) for each in processes),
    )
    yield counter(
        "mxworker_log_lines_dropped",
        "Log lines of workers that were dropped, since the reader of the log was too slow.",
        "",
        [((), sum(each.log_lines_dropped for each in processes))],
    )


def _words(name: str) -> Labels:
    return (name.replace(" ", "_"),)


def _by_queue(
    consumers: Sequence[ConsumerMetrics],
    value: Callable[[ConsumerMetrics], float],
    fold: Callable[[Iterable[float]], float] = sum,
) -> list[tuple[Labels, float]]:
    """Return one value for each queue; the row for all others has several handlers."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for each in consumers:
        values[each.queue].append(value(each))
    return [((queue,), fold(found)) for queue, found in values.items()]


def _histograms_by_queue(
    consumers: Sequence[ConsumerMetrics], value: Callable[[ConsumerMetrics], Histogram]
) -> list[tuple[Labels, Histogram]]:
    found: dict[str, Histogram] = {}
    for each in consumers:
        found[each.queue] = found[each.queue] + value(each) if each.queue in found else value(each)
    return [((queue,), histogram) for queue, histogram in found.items()]
