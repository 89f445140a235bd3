"""What the problems of a service are found in, and what a problem is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mxworker.control.status import LinkStatus, UnconsumedStatus
from mxworker.observer.overview.history import History
from mxworker.observer.overview.view import View

BEGINNING_S = 3.0  # a new worker connects and declares its queues in less


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


def alive_of(facts: Facts) -> int:
    """Return how many workers run."""
    return sum(worker.pid is not None for worker in facts.service.workers)


def extent_of(facts: Facts, workers: int) -> str:
    """Return the end of a sentence about some of the workers; empty when it is about all that run."""
    alive = alive_of(facts)
    return f" in {workers} of {alive} workers" if workers < alive else ""


def begins(facts: Facts, entry: LinkStatus | UnconsumedStatus) -> bool:
    """Tell whether this may be a new worker that has not come so far yet: each reload and recycling has some."""
    is_part = entry.workers < alive_of(facts)
    return is_part and facts.now_unix_s - entry.since_unix_s < BEGINNING_S


def has_lost_consuming(facts: Facts) -> bool:
    """Tell whether the consuming connections are down too: the publishing ones are then not worth a line."""
    return any(link.role == "consume" and link.state == "down" for link in facts.service.links)
