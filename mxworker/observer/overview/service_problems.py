"""What is wrong with the processes of a service and their connections. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mxworker.control.status import WorkerStatus
from mxworker.observer.overview.facts import Facts, Problem, Severity, begins, extent_of, has_lost_consuming
from mxworker.observer.overview.figures import count_of, duration
from mxworker.observer.overview.history import FIVE_MINUTES_S

MASTER_SILENT_S = 5.0  # the master tells something every second
LOOP = 3  # deaths in five minutes: backoff lets a worker die up to twenty times in that time
WELL_AFTER_S = 60.0  # as long as it takes until the backoff of its slot begins anew
LAG_S = 0.5
_DEATHS = ("(crash)", "(hang)", "(left unasked)", "(broken slot)")


# ---- the master and the connections


def of_master(facts: Facts) -> Iterator[Problem]:
    """Yield what is wrong with the master: it is silent, cannot end a worker, or has refused a reload."""
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


def of_consuming_links(facts: Facts) -> Iterator[Problem]:
    """Yield the reasons why workers have no connection to consume from."""
    for link in facts.service.links:
        if link.role == "consume" and link.state == "down" and not begins(facts, link):
            extent = extent_of(facts, link.workers)
            remedy = "Check that the broker runs and can be reached from here. Workers connect again by themselves."
            severity = Severity.WARNING if extent else Severity.CRITICAL
            what = "there is no connection to the broker"
            yield Problem(severity, what, link.why, remedy, link.since_unix_s, extent)


def of_publishing_links(facts: Facts) -> Iterator[Problem]:
    """Yield the reasons why workers cannot publish. Without any connection that is not worth a line."""
    for link in facts.service.links:
        if link.state == "up" or (link.state == "down" and (link.role == "consume" or has_lost_consuming(facts))):
            continue
        if begins(facts, link):
            continue
        what, remedy = "there is no connection for publishing", "Workers connect again by themselves."
        if link.state == "blocked":
            what = "the broker takes no publishes"
            remedy = (
                "Free memory or disk on the broker; then publishes go on by themselves. Consuming goes on meanwhile."
            )
        yield Problem(Severity.WARNING, what, link.why, remedy, link.since_unix_s, extent_of(facts, link.workers))


# ---- workers


def of_workers(facts: Facts) -> Iterator[Problem]:
    """Yield workers that die again and again, and otherwise those that are missing."""
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


def of_hung_workers(facts: Facts) -> Iterator[Problem]:
    """Yield workers whose event loop does not run, and otherwise those whose loop is late."""
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
