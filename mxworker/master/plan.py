"""The values that the fleet takes and returns: observations, planned actions, and the state of the last reload.

All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, auto

from mxworker.board.lifecycle import Wish
from mxworker.master.slot import Order
from mxworker.master.slot_states import Reason

_UNASKED = frozenset({Reason.CRASH, Reason.HANG, Reason.BROKEN, Reason.LEFT_UNASKED})


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork the worker of a slot; it must beat before `boot_deadline_ns`. Answer with `spawned` or `spawn_failed`.

    A worker on trial exits for what only a human can change, as at a first start, instead of waiting. Replacements are
    on trial, and so is every worker whose code may be that of a reload that is not done, or was refused.
    """

    slot: int
    generation: int
    is_on_trial: bool
    boot_deadline_ns: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give an order to a worker."""

    slot: int
    pid: int
    order: Order


Action = Spawn | Send


@dataclass(frozen=True, slots=True)
class Look:
    """What the board says of the process in a slot."""

    deadline_ns: int
    is_ready: bool = False
    wish: Wish = Wish.NONE
    is_burst_over: bool = False


class Cause(Enum):
    """What may have killed a worker that nobody had stopped, as far as the master can know."""

    UNKNOWN = auto()
    """No message was in flight: the worker, its code or its surroundings are at fault."""
    MESSAGES = auto()
    """One of the messages in flight."""
    DEADLY_QUEUE = auto()
    """A message that ran alone, of a queue that is known for messages that kill."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended, to be reported. `status` is an exit code, or minus a signal number."""

    slot: int
    pid: int
    status: int
    reason: Reason
    as_asked: bool
    uptime_s: float
    retry_in_s: float | None

    was_killed: bool = False
    """Whether the master had sent it KILL."""

    @property
    def is_unasked(self) -> bool:
        """Whether nobody had asked the worker to end like this, so that a message may have ended it.

        A worker that dies of a signal while it drains counts too: one that eats all memory asks to be recycled first.
        """
        died = self.status < 0 and self.status != -signal.SIGTERM and not self.was_killed
        return self.reason in _UNASKED or died


class RollState(Enum):
    """How the last reload went."""

    NONE = auto()
    """None was asked for yet."""
    ROLLING = auto()
    DONE = auto()
    REFUSED = auto()
    """Its code did not start; the workers with the code before it go on."""


@dataclass(frozen=True, slots=True)
class Roll:
    """The last reload: `generation` is that of its code, `why` tells why it was refused."""

    state: RollState = RollState.NONE
    generation: int = 1
    why: str = ""
