"""What is wrong with a service, worst first: each problem with its reason, and with what a person can do.

Pure. A rule is a function that yields problems; `problems` asks all of them. Numbers of messages alone are no problem:
a long queue is harmless as often as not. Late messages are one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from mxworker.board.metric_values import ConsumerMetrics
from mxworker.control.status import LinkStatus, UnconsumedStatus, WorkerStatus
from mxworker.observer.figures import count_of, duration
from mxworker.observer.history import FIVE_MINUTES_S, MINUTE_S, History
from mxworker.observer.view import View

MASTER_SILENT_S = 5.0  # the master tells something every second
LOOP = 3  # deaths in five minutes: backoff lets a worker die up to twenty times in that time
WELL_AFTER_S = 60.0  # as long as it takes until the backoff of its slot begins anew
LAG_S = 0.5
BEGINNING_S = 3.0
FAILED_SHARE = 0.05
FEW_FAILURES = 10  # in a minute: below that a share means little
STUCK_S = 30.0
_DEATHS = ("(crash)", "(hang)", "(left unasked)", "(broken slot)")
_PUBLISH_FAULTS = ("nacked", "returned", "unconfirmed", "overflow", "dropped")


class Severity(IntEnum):
    """How bad a problem is."""

    NOTE = 0
    """Somebody wanted it so, or it can wait."""
    WARNING = 1
    """Some work is not done as it should be."""
    CRITICAL = 2
    """No work is done, or the service must be restarted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `what` is a sentence without its first capital and its full stop, so that others can include it."""

    severity: Severity
    what: str
    why: str
    remedy: str
    since_unix_s: float | None = None
    extent: str = ""
    """Which part of the service it concerns, as the end of the sentence; empty for all of it."""


@dataclass(frozen=True, slots=True)
class Facts(View):
    """All that is known of the service at an instant: a view, and what came before."""

    history: History

    @classmethod
    def of(cls, view: View, history: History) -> Facts:
        """Return the facts for a view."""
        return cls(view.now_unix_s, view.now_s, view.metrics, view.service, view.told_s_ago, history)


def problems(facts: Facts) -> list[Problem]:
    """Return all problems, the worst first."""
    rules = (
        _of_master,
        _of_consuming_links,
        _of_queues,
        _of_workers,
        _of_hung_workers,
        _of_publishing_links,
        _of_publishing,
        _of_handlers,
        _of_quarantine,
        _of_rest,
    )
    found = [problem for rule in rules for problem in rule(facts)]
    return sorted(found, key=lambda problem: -problem.severity)


# ---- the master and the connections


def _of_master(facts: Facts) -> Iterator[Problem]:
    service = facts.service
    if facts.told_s_ago > MASTER_SILENT_S:
        yield Problem(
            Severity.CRITICAL,
            f"the master process has said nothing for {duration(facts.told_s_ago)}",
            f"process {service.pid} is stopped or hangs; workers go on, and nobody replaces them",
            "Look at the process. If it does not go on, restart the service.",
        )
    if service.unhealthy_because:
        yield Problem(
            Severity.CRITICAL,
            service.unhealthy_because,
            "the kernel does not end it",
            "Restart the service or machine.",
        )
    if service.reload.state == "refused":
        why = "  ".join(filter(None, (service.reload.why, service.reload.note)))
        remedy = "Correct the code and reload again. Until then the old code goes on."
        what = f"the reload to generation {service.reload.generation} was refused"
        yield Problem(Severity.WARNING, what, why, remedy)


def _of_consuming_links(facts: Facts) -> Iterator[Problem]:
    for link in facts.service.links:
        if link.role == "consume" and link.state == "down" and not _begins(facts, link):
            extent = _extent(facts, link.workers)
            remedy = "Check that the broker runs and can be reached from here. Workers connect again by themselves."
            severity = Severity.WARNING if extent else Severity.CRITICAL
            what = "there is no connection to the broker"
            yield Problem(severity, what, link.why, remedy, link.since_unix_s, extent)


def _of_publishing_links(facts: Facts) -> Iterator[Problem]:
    for link in facts.service.links:
        if link.state == "up" or (link.state == "down" and (link.role == "consume" or _has_lost_consuming(facts))):
            continue
        if _begins(facts, link):
            continue
        what, remedy = "there is no connection for publishing", "Workers connect again by themselves."
        if link.state == "blocked":
            what = "the broker takes no publishes"
            remedy = (
                "Free memory or disk on the broker; then publishes go on by themselves. Consuming goes on meanwhile."
            )
        yield Problem(Severity.WARNING, what, link.why, remedy, link.since_unix_s, _extent(facts, link.workers))


def _begins(facts: Facts, entry: LinkStatus | UnconsumedStatus) -> bool:
    """Tell whether this may be a new worker that has not come so far yet: each reload and recycling has some."""
    is_part = entry.workers < alive_of(facts)
    return is_part and facts.now_unix_s - entry.since_unix_s < BEGINNING_S


def _extent(facts: Facts, workers: int) -> str:
    alive = alive_of(facts)
    return f" in {workers} of {alive} workers" if workers < alive else ""


def alive_of(facts: Facts) -> int:
    """Return how many workers run."""
    return sum(worker.pid is not None for worker in facts.service.workers)


def _has_lost_consuming(facts: Facts) -> bool:
    """Tell whether the consuming connections are down too: the publishing ones are then not worth a line."""
    return any(link.role == "consume" and link.state == "down" for link in facts.service.links)


# ---- queues


def _of_queues(facts: Facts) -> Iterator[Problem]:
    for queue in facts.service.unconsumed:
        extent = _extent(facts, queue.workers)
        if _begins(facts, queue):
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


# ---- workers


def _of_workers(facts: Facts) -> Iterator[Problem]:
    service = facts.service
    by_end: defaultdict[str, list[WorkerStatus]] = defaultdict(list)
    for worker in service.workers:
        if worker.last_exit.endswith(_DEATHS) and _is_in_trouble(facts, worker):
            by_end[worker.last_exit].append(worker)
    for end, workers in by_end.items():
        restarts = sum(facts.history.grown(FIVE_MINUTES_S, ("restarts", worker.slot)) for worker in workers)
        names = named([worker.slot for worker in workers])
        loops, again = ("crash-loop", "have ended and are") if len(workers) > 1 else ("crash-loops", "has ended and is")
        what = f"{names} {loops}" if restarts >= LOOP else f"{names} {again} started again"
        why = f"last end: {end}; {count_of(restarts, 'restart')} in the last 5 min"
        yield Problem(Severity.WARNING, what, why, "Look at the log lines of the end. Messages are delivered again.")
    if not by_end and service.state == "running" and service.workers_ready < service.workers_wanted:
        missing = f"{service.workers_ready} of {service.workers_wanted} workers consume"
        if not service.links or all(link.state != "down" for link in service.links):
            yield Problem(
                Severity.WARNING, missing, "the others start, or cannot consume all queues", "See the workers."
            )


def _is_in_trouble(facts: Facts, worker: WorkerStatus) -> bool:
    if worker.state == "backoff":
        return True
    is_young = worker.uptime_s is None or worker.uptime_s < WELL_AFTER_S
    return is_young and facts.history.grown(FIVE_MINUTES_S, ("restarts", worker.slot)) >= LOOP


def _of_hung_workers(facts: Facts) -> Iterator[Problem]:
    hung = [
        worker for worker in facts.service.workers if worker.state in ("aborting", "killing") or worker.heartbeat_late_s
    ]
    if hung:
        yield Problem(
            Severity.WARNING,
            f"{named([worker.slot for worker in hung])} {'hang' if len(hung) > 1 else 'hangs'}",
            "the event loop does not run: something blocks it",
            "The log has the stack of what blocks. The worker is replaced by itself.",
        )
    slow = [process.slot for process in facts.metrics.processes if process.loop_lag_s >= LAG_S]
    if slow and not hung:
        lag_s = max(process.loop_lag_s for process in facts.metrics.processes)
        what = f"the event loop of {named(slow)} is {duration(lag_s)} late"
        why = "code of a handler blocks it, or the machine has too little CPU"
        yield Problem(Severity.WARNING, what, why, "Make blocking handlers a plain 'def', or cpu=True.")


def named(slots: list[int]) -> str:
    """Return `worker 2` or `workers 2, 3`."""
    return f"worker{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots[:8]))}{' ...' if len(slots) > 8 else ''}"


# ---- handlers


def _of_handlers(facts: Facts) -> Iterator[Problem]:
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
    if not is_told_otherwise and not _has_lost_consuming(facts):
        yield Problem(
            Severity.WARNING,
            f"queue {row.queue} has {count_of(ready, 'message')} ready, and delivers none",
            "another consumer has priority, or the broker does not deliver",
            f"Look at the consumers of {row.queue} on the broker.",
        )


# ---- publishing and the rest


def _of_publishing(facts: Facts) -> Iterator[Problem]:
    for row in facts.metrics.exchanges:
        counts = {name: facts.history.grown(MINUTE_S, ("published", row.exchange, name)) for name in _PUBLISH_FAULTS}
        found = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
        if found:
            yield Problem(
                Severity.WARNING,
                f"publishes to {exchange_name(row.exchange)} fail",
                f"in the last minute: {found}",
                "Unconfirmed ones may be in their queue or not; the others are not. See the log for the reasons.",
            )


def exchange_name(name: str) -> str:
    """Return the name of an exchange as people know it."""
    return name or "the default exchange"


def _of_quarantine(facts: Facts) -> Iterator[Problem]:
    for queue in facts.metrics.queues:
        if queue.quarantined:
            yield Problem(
                Severity.WARNING,
                f"{count_of(queue.quarantined, 'message')} of {queue.queue} in quarantine",
                "they have killed workers",
                f"Correct the handler, then move them from {queue.queue}.quarantine back.",
            )


def _of_rest(facts: Facts) -> Iterator[Problem]:
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
