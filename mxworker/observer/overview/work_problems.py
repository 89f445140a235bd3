"""What is wrong with the work of a service: its queues, handlers and publishes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mxworker.board.metric_values import ConsumerMetrics
from mxworker.observer.overview.facts import Facts, Problem, Severity, begins, extent_of, has_lost_consuming
from mxworker.observer.overview.figures import count_of, duration
from mxworker.observer.overview.history import FIVE_MINUTES_S, MINUTE_S

FAILED_SHARE = 0.05
FEW_FAILURES = 10  # in a minute: below that a share means little
STUCK_S = 30.0
_PUBLISH_FAULTS = ("nacked", "returned", "unconfirmed", "overflow", "dropped")
_EXCHANGES_NAMED = 3  # an application may name one for each message


# ---- queues


def of_queues(facts: Facts) -> Iterator[Problem]:
    """Yield the queues that are not consumed, are paused, or whose messages kill workers."""
    for queue in facts.service.unconsumed:
        extent = extent_of(facts, queue.workers)
        if begins(facts, queue):
            continue
        if queue.state != "paused":
            remedy = (
                f"Remove the cause; then reload, or 'mxworker ctl pause {queue.queue}' and 'resume' it."
                if queue.state == "stopped"
                else "Remove the cause; then workers consume it by themselves."
            )
            what = f"queue {queue.queue} is not consumed"
            yield Problem(Severity.WARNING, what, queue.why, remedy, queue.since_unix_s, extent)
        elif not facts.service.paused.all:
            severity, why, remedy = _of_pause(queue.queue, queue.why)
            yield Problem(severity, f"queue {queue.queue} is paused", why, remedy, queue.since_unix_s, extent)
    for name in facts.service.run_alone:
        yield Problem(
            Severity.WARNING,
            f"messages of queue {name} run alone",
            "its messages have killed one worker after another",
            f"Look for the reason in the log and in {name}.quarantine.",
        )


def _of_pause(queue: str, reason: str) -> tuple[Severity, str, str]:
    match reason:
        case "operator":
            return Severity.NOTE, "an operator paused it", f"'mxworker ctl resume {queue}' ends the pause."
        case "circuit breaker":
            why = "its circuit breaker is open"
            return Severity.WARNING, why, "See what its handler fails with. It is tried again by itself."
        case "asked":
            return Severity.NOTE, "the application paused it", "The application resumes it."
        case _:
            return Severity.NOTE, reason, "It goes on by itself."


# ---- handlers


def of_handlers(facts: Facts) -> Iterator[Problem]:
    """Yield what is wrong with the handlers that the present code has."""
    ready = {each.queue: each.ready for each in facts.metrics.queues}
    for row in facts.metrics.consumers:
        if row.slots:
            yield from _of_stuck(row)
            yield from _of_failures(facts, row)
            yield from _of_age(facts, row)
            yield from _of_silence(facts, row, ready.get(row.queue))


def _of_stuck(row: ConsumerMetrics) -> Iterator[Problem]:
    if row.stuck:
        yield Problem(
            Severity.WARNING,
            f"{row.stuck} of {row.slots} places of handler {row.handler} are stuck",
            "their handlers did not stop when their time was up",
            "Give calls inside of the handler a timeout. A worker is replaced when half of its places are stuck.",
        )


def _of_failures(facts: Facts, row: ConsumerMetrics) -> Iterator[Problem]:
    pair = (row.queue, row.handler)
    failures = facts.history.grown(MINUTE_S, ("failed", *pair))
    total = facts.history.grown(MINUTE_S, ("ended", *pair))
    if failures >= FEW_FAILURES and failures > FAILED_SHARE * total:
        errors = {name: facts.history.grown(MINUTE_S, ("failures", *pair, name)) for name in row.failures}
        worst = max(errors, key=lambda name: errors[name], default="")
        yield Problem(
            Severity.WARNING,
            f"{failures / total:.0%} of the deliveries of {row.queue} fail",
            f"mostly {worst}" if worst and errors[worst] else "see the outcomes of the queue",
            f"See the errors below, and the log of handler {row.handler}.",
        )


def _of_age(facts: Facts, row: ConsumerMetrics) -> Iterator[Problem]:
    age_s = facts.history.quantile(MINUTE_S, 0.95, ("age", row.queue, row.handler))
    if row.objective_s is not None and age_s is not None and age_s > row.objective_s:
        busy_s = facts.history.per_s(MINUTE_S, ("busy", row.queue, row.handler)) or 0.0
        is_full = busy_s > 0.95 * row.slots
        yield Problem(
            Severity.WARNING,
            f"messages of {row.queue} are late",
            f"95 % are handled within {duration(age_s)}, the objective is {duration(row.objective_s)}"
            + ("; all places of the handler are busy" if is_full else ""),
            "Raise the handler's concurrency or the number of workers." if is_full else "See what delays the messages.",
        )


def _of_silence(facts: Facts, row: ConsumerMetrics, ready: int | None) -> Iterator[Problem]:
    """Yield a problem for a queue that has messages and seems to be consumed, and from which nothing comes."""
    silent_s = min(facts.now_unix_s - row.last_delivery_unix_s, facts.service.uptime_s)
    if not ready or silent_s <= STUCK_S or row.in_flight or row.prefetched or row.paused:
        return
    is_told_otherwise = any(queue.queue == row.queue for queue in facts.service.unconsumed)
    if not is_told_otherwise and not has_lost_consuming(facts):
        yield Problem(
            Severity.WARNING,
            f"queue {row.queue} has {count_of(ready, 'message')} ready, and delivers none",
            "another consumer has priority, or the broker does not deliver",
            f"Look at the consumers of {row.queue} on the broker.",
        )


# ---- publishing and the rest


def of_publishing(facts: Facts) -> Iterator[Problem]:
    """Yield the exchanges to which publishes failed in the last minute; those with fewer failures are one problem."""
    failed = {row.exchange: _failed_publishes(facts, row.exchange) for row in facts.metrics.exchanges}
    failing = sorted([each for each in failed if failed[each]], key=lambda each: -failed[each].total())
    for exchange in failing[:_EXCHANGES_NAMED]:
        yield _of_failed_publishes(exchange_name(exchange), failed[exchange])
    others = failing[_EXCHANGES_NAMED:]
    if others:
        counts = sum((failed[exchange] for exchange in others), Counter[str]())
        yield _of_failed_publishes(count_of(len(others), "other exchange"), counts)


def _failed_publishes(facts: Facts, exchange: str) -> Counter[str]:
    """Return how many publishes to an exchange failed in the last minute, by how they ended."""
    counts = {name: facts.history.grown(MINUTE_S, ("published", exchange, name)) for name in _PUBLISH_FAULTS}
    return Counter({name: number for name, number in counts.items() if number})


def _of_failed_publishes(where: str, counts: Counter[str]) -> Problem:
    found = ", ".join(f"{counts[name]:,} {name}" for name in _PUBLISH_FAULTS if counts[name])
    return Problem(
        Severity.WARNING,
        f"publishes to {where} fail",
        f"in the last minute: {found}",
        "Unconfirmed ones may be in their queue or not; the others are not. See the log for the reasons.",
    )


def exchange_name(name: str) -> str:
    """Return the name of an exchange as people know it."""
    return name or "the default exchange"


def of_quarantine(facts: Facts) -> Iterator[Problem]:
    """Yield the queues with messages in quarantine."""
    for queue in facts.metrics.queues:
        if queue.quarantined:
            yield Problem(
                Severity.WARNING,
                f"{count_of(queue.quarantined, 'message')} of {queue.queue} in quarantine",
                "they have killed workers",
                f"Correct the handler, then move them from {queue.queue}.quarantine back.",
            )


def of_rest(facts: Facts) -> Iterator[Problem]:
    """Yield what can wait: dead letters and lost log lines."""
    for queue in facts.metrics.queues:
        if queue.dead_letters:
            yield Problem(
                Severity.NOTE,
                f"{count_of(queue.dead_letters, 'dead letter')} of {queue.queue}",
                "they were rejected, or failed at every attempt",
                f"Look at {queue.queue}.dlq: the headers have error, attempts and time.",
            )
    dropped = facts.history.grown(
        FIVE_MINUTES_S, *(("log lines dropped", process.slot) for process in facts.metrics.processes)
    )
    if dropped:
        why = "the reader of stderr is too slow or has stopped"
        yield Problem(Severity.NOTE, f"{count_of(dropped, 'log line')} lost", why, "Look at what reads the log.")
