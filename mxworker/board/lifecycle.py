"""The states of a worker, with a literal transition table, and why a worker wants to be replaced.

A *worker* is one process; it writes its own state to its slot of the board. In the table a missing transition *is* the
error: it is a bug in mxworker. The states of the slot, which the master moves, are the master's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from mxworker.errors import InvariantError


class WorkerState(IntEnum):
    """What a worker does now. The number is what stands in the board."""

    VACANT = 0
    BOOTING = 1
    CONNECTING = 2
    READY = 3
    DEGRADED = 4
    DRAINING = 5
    STOPPED = 6


WORKER_TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = MappingProxyType(
    {
        WorkerState.VACANT: frozenset({WorkerState.BOOTING}),
        WorkerState.BOOTING: frozenset({WorkerState.CONNECTING, WorkerState.STOPPED}),
        WorkerState.CONNECTING: frozenset({WorkerState.READY, WorkerState.DEGRADED, WorkerState.DRAINING}),
        WorkerState.READY: frozenset({WorkerState.CONNECTING, WorkerState.DEGRADED, WorkerState.DRAINING}),
        WorkerState.DEGRADED: frozenset({WorkerState.CONNECTING, WorkerState.READY, WorkerState.DRAINING}),
        WorkerState.DRAINING: frozenset({WorkerState.STOPPED}),
        WorkerState.STOPPED: frozenset(),
    }
)


class Wish(IntEnum):
    """Why a worker wants to be replaced. The number is what stands in the board."""

    NONE = 0
    MESSAGES = 1
    RSS = 2
    AGE = 3
    STUCK = 4


def next_worker_state(state: WorkerState, wanted: WorkerState) -> WorkerState:
    """Return `wanted` when a worker may go there from `state`; otherwise raise InvariantError."""
    if wanted not in WORKER_TRANSITIONS[state]:
        raise InvariantError(f"a worker does not go from {state.name} to {wanted.name}")
    return wanted
