r"""The states of a slot, with a literal transition table.

Theory of operation. A *slot* is the place in the master's fleet that a worker fills; the master alone moves it. A slot
holds at most one live process, and is used again only after that process was reaped. Why a slot left a state (crash,
hang, stop ...) is a `Reason` beside the state, never a state of its own.

In the table a missing key *is* the error: an event that a state does not know is a bug in mxworker.

A slot's way, left to right; a worker that fails goes round again through BACKOFF:

    EMPTY -> STARTING -> RUNNING -> STOPPING -> EMPTY
                 \          \         \
                  +----------+---------+-> ABORTING -> KILLING -> BACKOFF or EMPTY

ABORTING is a worker past its heartbeat deadline, asked to tell what it does (SIGUSR1, then SIGABRT); a beat that comes
before SIGABRT brings it back to RUNNING. KILLING was sent SIGKILL and only waits to be reaped. An EMPTY slot whose
worker failed before any worker was ready, and was not tried again, goes to BACKOFF (RETRY) once another worker is
ready. An EMPTY slot that need not be filled is spare: a replacement starts there, and the slot that it relieves is
spare next.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType

from mxworker.errors import InvariantError


class SlotState(Enum):
    """What the master knows of a slot."""

    EMPTY = auto()
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    ABORTING = auto()
    KILLING = auto()
    BACKOFF = auto()


class SlotEvent(Enum):
    """What can happen to a slot."""

    SPAWNED = auto()
    BEAT = auto()
    STOP = auto()
    LATE = auto()
    KILL = auto()
    LEFT = auto()
    FAILED = auto()
    RETRY = auto()


class Reason(Enum):
    """Why a slot left its state."""

    START = "start"
    BEAT = "beat"
    BURST = "burst"
    LEFT_UNASKED = "left unasked"
    CRASH = "crash"
    FORK_FAILED = "fork failed"
    RETRY = "retry"
    RELOAD = "reload"
    RECYCLE = "recycle"
    SCALE = "scale"
    HANG = "hang"
    BROKEN = "broken slot"
    STOP = "stop"
    DRAIN_TIMEOUT = "drain timeout"
    FORCED = "forced"


SLOT_TRANSITIONS: Mapping[tuple[SlotState, SlotEvent], SlotState] = MappingProxyType(
    {
        (SlotState.EMPTY, SlotEvent.SPAWNED): SlotState.STARTING,
        (SlotState.EMPTY, SlotEvent.RETRY): SlotState.BACKOFF,
        (SlotState.BACKOFF, SlotEvent.SPAWNED): SlotState.STARTING,
        (SlotState.BACKOFF, SlotEvent.RETRY): SlotState.BACKOFF,
        (SlotState.BACKOFF, SlotEvent.STOP): SlotState.EMPTY,
        (SlotState.STARTING, SlotEvent.BEAT): SlotState.RUNNING,
        (SlotState.STARTING, SlotEvent.STOP): SlotState.STOPPING,
        (SlotState.STARTING, SlotEvent.LATE): SlotState.ABORTING,
        (SlotState.STARTING, SlotEvent.KILL): SlotState.KILLING,
        (SlotState.STARTING, SlotEvent.LEFT): SlotState.EMPTY,
        (SlotState.STARTING, SlotEvent.FAILED): SlotState.BACKOFF,
        (SlotState.RUNNING, SlotEvent.STOP): SlotState.STOPPING,
        (SlotState.RUNNING, SlotEvent.LATE): SlotState.ABORTING,
        (SlotState.RUNNING, SlotEvent.KILL): SlotState.KILLING,
        (SlotState.RUNNING, SlotEvent.LEFT): SlotState.EMPTY,
        (SlotState.RUNNING, SlotEvent.FAILED): SlotState.BACKOFF,
        (SlotState.STOPPING, SlotEvent.LATE): SlotState.ABORTING,
        (SlotState.STOPPING, SlotEvent.KILL): SlotState.KILLING,
        (SlotState.STOPPING, SlotEvent.LEFT): SlotState.EMPTY,
        (SlotState.ABORTING, SlotEvent.BEAT): SlotState.RUNNING,
        (SlotState.ABORTING, SlotEvent.KILL): SlotState.KILLING,
        (SlotState.ABORTING, SlotEvent.LEFT): SlotState.EMPTY,
        (SlotState.ABORTING, SlotEvent.FAILED): SlotState.BACKOFF,
        (SlotState.KILLING, SlotEvent.LEFT): SlotState.EMPTY,
        (SlotState.KILLING, SlotEvent.FAILED): SlotState.BACKOFF,
    }
)


def next_slot_state(state: SlotState, event: SlotEvent) -> SlotState:
    """Return the state that `event` leads to; an event unknown to `state` is an InvariantError."""
    try:
        return SLOT_TRANSITIONS[state, event]
    except KeyError:
        raise InvariantError(f"slot state {state.name} does not know the event {event.name}") from None
