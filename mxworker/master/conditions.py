"""The conditions of all workers, folded: workers in the same condition for the same reason are counted together.

Pure. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from mxworker.board.conditions import Condition, LinkState, QueueState
from mxworker.board.lifecycle import WorkerState
from mxworker.board.reading import Told
from mxworker.control.status import LinkStatus, UnconsumedStatus
from mxworker.master.slot import NS_PER_S
from mxworker.system.printable import foreign

LINKS_SHOWN = 32
QUEUES_SHOWN = 64
_LINK_STATES = {int(state): state.name.lower() for state in LinkState}
_QUEUE_STATES = {int(state): state.name.lower() for state in QueueState if state is not QueueState.CONSUMED}

_Key = tuple[str, str, str]
"""The role or queue, the state and the reason."""


def links_of(workers: Iterable[Told], now_ns: int, now_unix_s: float) -> tuple[LinkStatus, ...]:
    """Return the connections of these workers, of each role those of most workers first."""
    found = (
        ((role, _LINK_STATES[condition.state], condition.why), _since(condition, now_ns, now_unix_s))
        for told in workers
        for role, condition in told.links().items()
        if condition.state in _LINK_STATES
    )
    links = [LinkStatus(*key, workers=count, since_unix_s=since) for key, (count, since) in _folded(found).items()]
    return tuple(sorted(links, key=lambda link: (link.role, -link.workers))[:LINKS_SHOWN])


def unconsumed_by(workers: Iterable[Told], now_ns: int, now_unix_s: float) -> tuple[UnconsumedStatus, ...]:
    """Return the queues that these workers do not consume, by name.

    Workers that drain are not counted, nor are workers without a connection, which have no other reason.
    """
    found = (
        ((foreign(queue), _QUEUE_STATES[condition.state], condition.why), _since(condition, now_ns, now_unix_s))
        for told in workers
        if _is_meant_to_consume(told)
        for queue, condition in told.queue_conditions()
        if condition.state in _QUEUE_STATES
    )
    queues = [
        UnconsumedStatus(*key, workers=count, since_unix_s=since) for key, (count, since) in _folded(found).items()
    ]
    return tuple(sorted(queues, key=lambda queue: (queue.queue, -queue.workers))[:QUEUES_SHOWN])


def _is_meant_to_consume(told: Told) -> bool:
    link = told.links().get("consume")
    is_connected = link is not None and link.state != LinkState.DOWN
    return is_connected and told.state not in (WorkerState.DRAINING, WorkerState.STOPPED)


def _folded(found: Iterable[tuple[_Key, float]]) -> dict[_Key, tuple[int, float]]:
    """Return for each key how often it was found, and the earliest beginning."""
    folded: dict[_Key, tuple[int, float]] = {}
    for key, since in found:
        count, earliest = folded.get(key, (0, since))
        folded[key] = (count + 1, min(earliest, since))
    return folded


def _since(condition: Condition, now_ns: int, now_unix_s: float) -> float:
    """Return when a condition began. An instant that a worker cannot have written counts as now."""
    age_ns = now_ns - condition.since_ns
    return round(now_unix_s - (age_ns if condition.since_ns and age_ns > 0 else 0) / NS_PER_S, 3)
