"""Everything that the page shows, as plain data: the answer to `/status.json`.

The names are a public interface: later versions only add some. Times are seconds since 1970, durations are seconds,
rates are per second. None is what is not known. Nothing of a message is in it.

Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mxworker.board.metric_values import ConsumerMetrics
from mxworker.control.status import WorkerStatus
from mxworker.observer.overview.facts import Facts, alive_of
from mxworker.observer.overview.headline import headline
from mxworker.observer.overview.history import (
    FAILED,
    FIVE_MINUTES_S,
    LONGEST_S,
    MINUTE_S,
    NOW_S,
    STEP_S,
)
from mxworker.observer.overview.problems import problems

ERRORS_SHOWN = 20
_DIGITS = 3


def overview(facts: Facts) -> dict[str, Any]:
    """Return all that there is to know about the service now."""
    found = problems(facts)
    service = facts.service
    return {
        "at_unix_s": round(facts.now_unix_s, _DIGITS),
        "told_s_ago": round(facts.told_s_ago, _DIGITS),
        "state": asdict(headline(facts, found)),
        "problems": [{**asdict(problem), "severity": problem.severity.name.lower()} for problem in found],
        "service": {
            "name": service.name,
            "version": service.version,
            "pid": service.pid,
            "state": service.state,
            "started_at_unix_s": service.started_at_unix_s,
            "uptime_s": service.uptime_s,
            "generation": service.generation,
            "workers_wanted": service.workers_wanted,
            "workers_ready": service.workers_ready,
            "unhealthy_because": service.unhealthy_because,
            "unready_because": service.unready_because,
            "drain_left_s": service.drain_left_s,
            "log_level": service.log_level,
            "reload": asdict(service.reload),
            "paused": asdict(service.paused),
            "run_alone": list(service.run_alone),
        },
        "totals": _totals(facts),
        "queues": sorted([_queue(facts, row) for row in _shown(facts.metrics.consumers)], key=_is_consumed),
        "workers": [_worker(facts, worker) for worker in service.workers if _is_shown(worker)],
        "broker": _broker(facts),
        "publishing": _publishing(facts),
        "errors": _errors(facts),
        "history": _history(facts),
    }


def _totals(facts: Facts) -> dict[str, Any]:
    metrics = facts.metrics
    fresh = [queue for queue in metrics.queues if not queue.is_old(facts.now_unix_s)]
    pairs = [(row.queue, row.handler) for row in metrics.consumers]
    return {
        "ended_per_s": _rate(facts, *(("ended", *pair) for pair in pairs)),
        "failed_per_s": _rate(facts, *(("failed", *pair) for pair in pairs)),
        "published_per_s": _rate(facts, *(("published", row.exchange, "confirmed") for row in metrics.exchanges)),
        "acked": sum(row.outcomes.get("ack", 0) for row in metrics.consumers),
        "failed": sum(count for row in metrics.consumers for name, count in row.outcomes.items() if name in FAILED),
        "in_flight": sum(row.in_flight for row in metrics.consumers),
        "prefetched": sum(row.prefetched for row in metrics.consumers),
        "ready": _sum(queue.ready for queue in fresh),
        "retry_waiting": _sum(queue.retry_waiting for queue in fresh),
        "dead_letters": _sum(queue.dead_letters for queue in fresh),
        "quarantined": _sum(queue.quarantined for queue in fresh),
    }


# ---- queues


def _shown(rows: Sequence[ConsumerMetrics]) -> list[ConsumerMetrics]:
    """Return the rows of the present code's handlers; all rows while no worker says which these are."""
    return [row for row in rows if row.slots] or list(rows)


def _queue(facts: Facts, row: ConsumerMetrics) -> dict[str, Any]:
    history, pair = facts.history, (row.queue, row.handler)
    depth = next((each for each in facts.metrics.queues if each.queue == row.queue), None)
    busy_s = history.per_s(MINUTE_S, ("busy", *pair))
    state, why = _queue_state(facts, row)
    return {
        "queue": row.queue,
        "handler": row.handler,
        "state": state,
        "why": why,
        "ready": depth and depth.ready,
        "consumers": depth and depth.consumers,
        "retry_waiting": depth and depth.retry_waiting,
        "dead_letters": depth and depth.dead_letters,
        "quarantined": depth and depth.quarantined,
        "looked_at_unix_s": depth and depth.looked_at_unix_s,
        "is_depth_old": depth is not None and depth.is_old(facts.now_unix_s),
        "ended_per_s": _rate(facts, ("ended", *pair)),
        "ended_per_s_1min": _rate(facts, ("ended", *pair), window_s=MINUTE_S),
        "ended_per_s_5min": _rate(facts, ("ended", *pair), window_s=FIVE_MINUTES_S),
        "failed_per_s": _rate(facts, ("failed", *pair)),
        "duration_p50_s": _quantile(facts, 0.5, ("duration", *pair)),
        "duration_p95_s": _quantile(facts, 0.95, ("duration", *pair)),
        "age_p95_s": _quantile(facts, 0.95, ("age", *pair)),
        "objective_s": row.objective_s,
        "outcomes": dict(row.outcomes),
        "redelivered": row.redelivered,
        "in_flight": row.in_flight,
        "prefetched": row.prefetched,
        "stuck": row.stuck,
        "slots": row.slots,
        "utilisation": round(min(1.0, busy_s / row.slots), _DIGITS) if busy_s is not None and row.slots else None,
        "last_delivery_unix_s": row.last_delivery_unix_s or None,
    }


def _is_consumed(queue: Mapping[str, Any]) -> bool:
    """Queues that are not consumed come first."""
    return bool(queue["state"] == "consumed")


def _queue_state(facts: Facts, row: ConsumerMetrics) -> tuple[str, str]:
    """Return whether a queue is consumed, and if not, the reason of most of its workers."""
    reasons = [each for each in facts.service.unconsumed if each.queue == row.queue]
    if reasons:
        most = max(reasons, key=lambda each: each.workers)
        is_all = most.workers >= alive_of(facts)
        return most.state if is_all else "partly consumed", most.why
    if facts.service.state == "stopping":
        return "draining", ""
    down = next((link for link in facts.service.links if link.role == "consume" and link.state == "down"), None)
    if down is not None and not facts.service.workers_ready:
        return "not connected", down.why
    return ("consumed", "") if row.slots else ("no worker", "no worker that runs now consumes it")


# ---- workers


def _is_shown(worker: WorkerStatus) -> bool:
    return worker.pid is not None or worker.state != "empty"


def _worker(facts: Facts, worker: WorkerStatus) -> dict[str, Any]:
    process = next((each for each in facts.metrics.processes if each.slot == worker.slot), None)
    cpu = facts.history.per_s(NOW_S, ("cpu", worker.slot))
    lives = worker.pid is not None
    return {
        "slot": worker.slot,
        "pid": worker.pid,
        "state": worker.consuming if worker.state == "running" else worker.state,
        "reason": worker.reason,
        "generation": worker.generation,
        "uptime_s": worker.uptime_s,
        "heartbeat_late_s": worker.heartbeat_late_s,
        "in_flight": worker.in_flight,
        "prefetched": process.prefetched if process is not None else None,
        "stuck": process.stuck if process is not None else None,
        "ended_per_s": _rate(facts, ("ended by worker", worker.slot)) if lives else None,
        "loop_lag_s": process.loop_lag_s if process is not None and lives else None,
        "rss_bytes": worker.rss_bytes,
        "cpu": round(cpu, _DIGITS) if cpu is not None and lives else None,
        "restarts": worker.restarts,
        "restarts_recent": facts.history.grown(FIVE_MINUTES_S, ("restarts", worker.slot)),
        "last_exit": worker.last_exit,
    }


# ---- the broker


def _broker(facts: Facts) -> dict[str, Any]:
    processes = facts.metrics.processes
    return {
        "links": [asdict(link) for link in facts.service.links],
        "connections": _by_role(process.connections for process in processes),
        "channels": _by_role(process.channels for process in processes),
        "borrowed_channels": sum(process.borrowed_channels for process in processes),
        "reconnects": _by_name(process.reconnects for process in processes),
        "pool_wait_p95_s": _quantile(facts, 0.95, *(("pool wait", process.slot) for process in processes)),
    }


def _publishing(facts: Facts) -> dict[str, Any]:
    processes = facts.metrics.processes
    confirms = [("confirm", process.slot) for process in processes]
    return {
        "is_blocked": any(process.is_publish_blocked for process in processes),
        "in_flight": sum(process.publish_in_flight for process in processes),
        "waiting_for": _by_name(process.publish_waiting_for for process in processes),
        "confirm_p50_s": _quantile(facts, 0.5, *confirms),
        "confirm_p95_s": _quantile(facts, 0.95, *confirms),
        "exchanges": [
            {
                "exchange": row.exchange,
                "confirmed_per_s": _rate(facts, ("published", row.exchange, "confirmed")),
                "outcomes": dict(row.outcomes),
                "bytes_sent": row.bytes_sent,
            }
            for row in facts.metrics.exchanges
        ],
    }


def _by_role(each: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Return sums over processes, by role and state."""
    total: dict[str, dict[str, int]] = {}
    for counts in each:
        for (role, state), count in counts.items():
            states = total.setdefault(role, {})
            states[state] = states.get(state, 0) + count
    return total


def _by_name(each: Iterable[Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in each:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


# ---- errors and history


def _errors(facts: Facts) -> list[dict[str, Any]]:
    """Return the types of errors of the last quarter of an hour, the most frequent first."""
    found: list[dict[str, Any]] = []
    for row in facts.metrics.consumers:
        for error, total in row.failures.items():
            recent = facts.history.grown(LONGEST_S, ("failures", row.queue, row.handler, error))
            last_at = row.failed_at.get(error)
            if recent or (last_at is not None and facts.now_unix_s - last_at <= LONGEST_S):
                found.append(
                    {
                        "error": error,
                        "queue": row.queue,
                        "handler": row.handler,
                        "recent": recent,
                        "total": total,
                        "last_unix_s": last_at,
                    }
                )
    return sorted(found, key=lambda error: (-error["recent"], -error["total"]))[:ERRORS_SHOWN]


def _history(facts: Facts) -> dict[str, Any]:
    points = list(facts.history.points)
    queues = sorted({queue for point in points for queue in point.queues})
    return {
        "step_s": STEP_S,
        "ended_per_s": [_short(point.ended_per_s) for point in points],
        "failed_per_s": [_short(point.failed_per_s) for point in points],
        "published_per_s": [_short(point.published_per_s) for point in points],
        "in_flight": [point.in_flight for point in points],
        "queues": {
            queue: {
                "ended_per_s": [_short(at.ended_per_s) if at else 0.0 for at in of_queue],
                "ready": [at.ready if at else None for at in of_queue],
            }
            for queue in queues
            for of_queue in [[point.queues.get(queue) for point in points]]
        },
    }


def _short(number: float) -> float:
    return round(number, 1)


def _rate(facts: Facts, *counters: Hashable, window_s: float = NOW_S) -> float | None:
    per_s = facts.history.per_s(window_s, *counters)
    return None if per_s is None else round(per_s, _DIGITS)


def _quantile(facts: Facts, q: float, *histograms: Hashable) -> float | None:
    value = facts.history.quantile(MINUTE_S, q, *histograms)
    return None if value is None else round(value, 6)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum of the known numbers; None when none is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
