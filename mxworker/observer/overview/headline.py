"""The one line that says how the service is. Pure.

There are seven states, and the first one that holds is shown: unsupervised, draining, starting, paused, not consuming,
degraded, working.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxworker.observer.overview.facts import Facts, Problem, Severity, alive_of
from mxworker.observer.overview.figures import clock, count_of, duration, rate
from mxworker.observer.overview.history import MINUTE_S, NOW_S
from mxworker.observer.overview.service_problems import MASTER_SILENT_S

_NAMED = 3  # problems in the line; the others are counted
_CONSUME = ("ready", "degraded")


@dataclass(frozen=True, slots=True)
class Headline:
    """The state of the service."""

    state: str
    """working, degraded, not consuming, paused, starting, draining or unsupervised."""
    text: str
    """The state as a sentence, with the reason of a bad one."""
    detail: str
    """What it does now."""


def headline(facts: Facts, problems: Sequence[Problem]) -> Headline:
    """Return the state; `problems` are all of the service, the worst first."""
    state, reason = _state(facts, problems)
    name = state.capitalize()
    return Headline(state, f"{name}: {reason}" if reason else name, _detail(facts))


def _state(facts: Facts, problems: Sequence[Problem]) -> tuple[str, str]:
    service = facts.service
    bad = [problem for problem in problems if problem.severity is not Severity.NOTE]
    if facts.told_s_ago > MASTER_SILENT_S:
        return "unsupervised", bad[0].what
    if service.state == "stopping":
        return "draining", _drain(facts)
    if service.state == "starting":
        return "starting", _reason(facts, bad)
    if service.paused.all:
        return "paused", "an operator has paused all queues"
    if not any(worker.consuming in _CONSUME for worker in service.workers):
        return "not consuming", _reason(facts, bad) or "no worker runs"
    if _is_every_queue_paused(facts):
        return "paused", "every queue is paused"
    return ("degraded", _reason(facts, bad)) if bad else ("working", "")


def _drain(facts: Facts) -> str:
    left = sum(worker.in_flight for worker in facts.service.workers)
    if not left:
        return "no handler is left"
    most = facts.service.drain_left_s
    return f"{count_of(left, 'handler')} left" + (f", at most {duration(round(most))}" if most else "")


def _reason(facts: Facts, bad: Sequence[Problem]) -> str:
    """Return the worst problem with its beginning, or several without."""
    if len(bad) == 1 or (bad and bad[0].severity is Severity.CRITICAL):
        since = bad[0].since_unix_s
        return bad[0].what + (f" since {clock(since, facts.now_unix_s)}" if since is not None else "")
    named = ", ".join(problem.what for problem in bad[:_NAMED])
    return named + (f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")


def _is_every_queue_paused(facts: Facts) -> bool:
    alive = alive_of(facts)
    paused = {each.queue for each in facts.service.unconsumed if each.state == "paused" and each.workers >= alive}
    consumed = {row.queue for row in facts.metrics.consumers if row.slots}
    return bool(consumed) and consumed <= paused


def _detail(facts: Facts) -> str:
    metrics = facts.metrics
    queues = {row.queue for row in metrics.consumers if row.slots}
    ended = [("ended", row.queue, row.handler) for row in metrics.consumers]
    in_flight = sum(row.in_flight for row in metrics.consumers)
    now = rate(facts.history.per_s(NOW_S, *ended))
    is_busy = in_flight or facts.history.grown(MINUTE_S, *ended)
    known_s = facts.history.span_s(MINUTE_S)
    if is_busy or not known_s:
        work = f"{now} messages a second, {in_flight:,} in flight"
    else:
        work = f"No message has ended in the last {'minute' if known_s >= MINUTE_S else duration(known_s)}"
    return f"{_workers(facts, len(queues))}. {work}."


def _workers(facts: Facts, queues: int) -> str:
    """Return how many workers consume all or some of the queues."""
    service = facts.service
    partly = sum(worker.consuming == "degraded" for worker in service.workers)
    what = f" {count_of(queues, 'queue')}" if queues and service.workers_ready and not partly else ""
    if partly:
        what = f" all queues, {partly} some of them"
    verb = "consumes" if service.workers_wanted == 1 else "consume"
    return f"{service.workers_ready} of {count_of(service.workers_wanted, 'worker')} {verb}{what}"
