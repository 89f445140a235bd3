"""The circuit breaker of a handler: when too many of its deliveries fail, its queue is left alone for a while.

Theory of operation. While CLOSED, the last `window` seconds are kept in mind; when at least `min_deliveries` ended in
them, and `failure_ratio` of those failed, it opens, and the queue is to be paused. When `pause` seconds are over it is
HALF_OPEN: a trial of few deliveries is let in. All succeeded: CLOSED, with nothing kept in mind. One failed: OPEN
again, for twice as long as the last time, up to ten times `pause`.

    CLOSED --tripped--> OPEN --rested--> HALF_OPEN --passed--> CLOSED
                         ^                   |
                         +------failed-------+

What was started before the trial and ends while OPEN or HALF_OPEN changes nothing: it is no news. In the table a
missing key *is* the error.

The last seconds are kept in a fixed number of buckets, so the window moves by a tenth of its length at a time.

Pure: every method takes `now`, a monotonic instant in seconds, and returns what to do. The caller pauses the
queue on `PauseUntil`, and calls `rested` at its end; resumes it on `Try`, with no more concurrency and prefetch than
that says; and gives it all of both back on `Close`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType, UnionType

from mxworker.errors import InvariantError

_BUCKETS = 10
_LONGEST_PAUSES = 10


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When to leave a queue alone, and for how long. Durations in seconds.

    When at least `min_deliveries` ended in the last `window`, and `failure_ratio` of them failed, the queue is paused
    for `pause`; then `trial` deliveries are tried. If one of those fails, too, it is paused for twice as long, up to
    ten times `pause`. Messages that are refused, or cannot be decoded, do not count. Raises ValueError when a value
    cannot work.
    """

    failure_ratio: float = 0.5
    window: float = 60.0
    min_deliveries: int = 20
    pause: float = 30.0
    trial: int = 1

    def __post_init__(self) -> None:
        """Refuse what could not work; written so that NaN is refused too."""
        for name in ("failure_ratio", "window", "pause"):
            self._check_type(name, int | float, "a number")
        for name in ("min_deliveries", "trial"):
            self._check_type(name, int, "a whole number")
        if not 0 < self.failure_ratio <= 1:
            raise ValueError(
                f"circuit breaker: failure_ratio is {self.failure_ratio:g}, but must be above 0 and at most 1"
            )
        for name in ("window", "pause"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"circuit breaker: {name} is {getattr(self, name):g}, but must be a time above 0")
        for name in ("min_deliveries", "trial"):
            if getattr(self, name) < 1:
                raise ValueError(f"circuit breaker: {name} is {getattr(self, name)}, but must be at least 1")

    def _check_type(self, name: str, kind: type | UnionType, what: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"circuit breaker: {name} is {value!r:.80}, but must be {what}")


class BreakerState(Enum):
    """What the switch lets through: all, nothing, or a trial."""

    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


class _Event(Enum):
    TRIPPED = auto()
    RESTED = auto()
    PASSED = auto()
    FAILED = auto()


_TRANSITIONS: Mapping[tuple[BreakerState, _Event], BreakerState] = MappingProxyType(
    {
        (BreakerState.CLOSED, _Event.TRIPPED): BreakerState.OPEN,
        (BreakerState.OPEN, _Event.RESTED): BreakerState.HALF_OPEN,
        (BreakerState.HALF_OPEN, _Event.PASSED): BreakerState.CLOSED,
        (BreakerState.HALF_OPEN, _Event.FAILED): BreakerState.OPEN,
    }
)


@dataclass(frozen=True, slots=True)
class PauseUntil:
    """Pause the queue, and call `rested` when the instant `until` has come."""

    until: float


@dataclass(frozen=True, slots=True)
class Try:
    """Consume again, with at most `deliveries` unsettled at once, until the switch says what to do next."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Close:
    """Let everything run again: the trial has passed."""


Action = PauseUntil | Try | Close


class Breaker:
    """The state of one handler's circuit breaker."""

    __slots__ = ("_paused_for", "_settings", "_trial_left", "_tried_from", "_until", "_window", "state")

    def __init__(self, settings: CircuitBreaker) -> None:
        """Start closed."""
        self.state = BreakerState.CLOSED
        self._settings = settings
        self._window = _Window(settings.window)
        self._paused_for = 0.0
        self._until = 0.0
        self._tried_from = 0.0
        self._trial_left = 0

    def succeeded(self, now: float, started_at: float) -> Action | None:
        """Take the news that a delivery was handled; return what to do, None for nothing."""
        if self.state is BreakerState.CLOSED:
            self._window.note(now, has_failed=False)
            return self._judge(now)  # it may be the one that makes them enough
        if self.state is BreakerState.HALF_OPEN and started_at >= self._tried_from:
            self._trial_left -= 1
            if self._trial_left == 0:
                return self._close()
        return None

    def failed(self, now: float, started_at: float) -> Action | None:
        """Take the news that a delivery has failed; return what to do, None for nothing."""
        if self.state is BreakerState.CLOSED:
            self._window.note(now, has_failed=True)
            return self._judge(now)
        if self.state is BreakerState.HALF_OPEN and started_at >= self._tried_from:
            return self._open(_Event.FAILED, now, min(2 * self._paused_for, _LONGEST_PAUSES * self._settings.pause))
        return None

    def rested(self, now: float) -> Action:
        """Take the news that the pause is over; called too early it says until when to go on."""
        if self.state is BreakerState.OPEN and now < self._until:
            return PauseUntil(self._until)
        self._move(_Event.RESTED)
        self._tried_from = now
        self._trial_left = self._settings.trial
        return Try(self._settings.trial)

    def _judge(self, now: float) -> Action | None:
        settings = self._settings
        ended, failed = self._window.ended, self._window.failed
        if ended < settings.min_deliveries or failed < settings.failure_ratio * ended:
            return None
        return self._open(_Event.TRIPPED, now, settings.pause)

    def _open(self, event: _Event, now: float, pause_s: float) -> PauseUntil:
        self._move(event)
        self._paused_for = pause_s
        self._until = now + pause_s
        return PauseUntil(self._until)

    def _close(self) -> Close:
        self._move(_Event.PASSED)
        self._window = _Window(self._settings.window)
        return Close()

    def _move(self, event: _Event) -> None:
        try:
            self.state = _TRANSITIONS[self.state, event]
        except KeyError:
            raise InvariantError(f"a circuit breaker that is {self.state.name} does not know {event.name}") from None


class _Window:
    """How many deliveries ended, and how many of them failed, in about the last `length_s` seconds."""

    __slots__ = ("_bucket_s", "_ended", "_failed", "_newest", "ended", "failed")

    def __init__(self, length_s: float) -> None:
        self.ended = 0
        self.failed = 0
        self._bucket_s = length_s / _BUCKETS
        self._newest = 0  # counts buckets since instant 0
        self._ended = [0] * _BUCKETS
        self._failed = [0] * _BUCKETS

    def note(self, now: float, has_failed: bool) -> None:
        """Count one more, and forget what is too old."""
        number = int(now / self._bucket_s)
        if number > self._newest:
            self._advance(number)
        at = self._newest % _BUCKETS
        self.ended += 1
        self._ended[at] += 1
        if has_failed:
            self.failed += 1
            self._failed[at] += 1

    def _advance(self, number: int) -> None:
        for old in range(max(self._newest + 1, number - _BUCKETS + 1), number + 1):
            at = old % _BUCKETS
            self.ended -= self._ended[at]
            self.failed -= self._failed[at]
            self._ended[at] = self._failed[at] = 0
        self._newest = number
