"""The circuit breaker of a handler: when too many of its deliveries fail, its queue is paused for a while.

Theory of operation. While CLOSED, the breaker counts the deliveries of the last `window` seconds. When at least
`min_deliveries` ended in that time, and `failure_ratio` of them failed, the breaker opens, and the queue is paused.
After `pause` seconds the breaker is HALF_OPEN, and a few deliveries are tried. When all of them succeed, the breaker is
CLOSED and its counts are zero. When one fails, the breaker is OPEN again, for twice as long as the last time, up to ten
times `pause`.

    CLOSED --tripped--> OPEN --rested--> HALF_OPEN --passed--> CLOSED
                         ^                   |
                         +------failed-------+

Deliveries that started before the trial and end while OPEN or HALF_OPEN change nothing. A missing key of the table *is*
the error.

The window has a fixed number of buckets, so it moves by a tenth of its length at a time.

Pure: every method takes `now`, a monotonic instant in seconds, and returns what to do. On `PauseUntil` the caller
pauses the queue, and calls `rested` at the end of the pause. On `Try` the caller resumes the queue, with concurrency
and prefetch limited to `Try.deliveries`. On `Close` the caller removes those limits.
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
    """When to pause a queue, and for how long. Durations are in seconds.

    When at least `min_deliveries` ended in the last `window`, and `failure_ratio` of them failed, the queue is paused
    for `pause`. Then `trial` deliveries are tried. If one of them fails, the queue is paused for twice as long as
    before, up to ten times `pause`. Messages that are refused, or cannot be decoded, do not count. Raises ValueError
    when a value is out of range, and TypeError when it has the wrong type.
    """

    failure_ratio: float = 0.5
    window: float = 60.0
    min_deliveries: int = 20
    pause: float = 30.0
    trial: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range. The comparisons refuse NaN, too."""
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
    """Which deliveries run: all, none, or those of a trial."""

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
    """Pause the queue, and call `rested` at the instant `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Try:
    """Consume again, with at most `deliveries` unsettled at once, until the breaker returns another action."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Close:
    """Remove all limits: the trial has passed."""


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
        """Count a delivery that succeeded. Return what to do; None for nothing."""
        if self.state is BreakerState.CLOSED:
            self._window.note(now, has_failed=False)
            return self._judge(now)  # this delivery may complete `min_deliveries`
        if self.state is BreakerState.HALF_OPEN and started_at >= self._tried_from:
            self._trial_left -= 1
            if self._trial_left == 0:
                return self._close()
        return None

    def failed(self, now: float, started_at: float) -> Action | None:
        """Count a delivery that failed. Return what to do; None for nothing."""
        if self.state is BreakerState.CLOSED:
            self._window.note(now, has_failed=True)
            return self._judge(now)
        if self.state is BreakerState.HALF_OPEN and started_at >= self._tried_from:
            return self._open(_Event.FAILED, now, min(2 * self._paused_for, _LONGEST_PAUSES * self._settings.pause))
        return None

    def rested(self, now: float) -> Action:
        """Begin the trial, since the pause is over. A call that comes too early returns the pause again."""
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
            raise InvariantError(f"a circuit breaker in state {self.state.name} cannot have {event.name}") from None


class _Window:
    """The number of deliveries that ended, and that failed, in about the last `length_s` seconds."""

    __slots__ = ("_bucket_s", "_ended", "_failed", "_newest", "ended", "failed")

    def __init__(self, length_s: float) -> None:
        self.ended = 0
        self.failed = 0
        self._bucket_s = length_s / _BUCKETS
        self._newest = 0  # counts buckets since instant 0
        self._ended = [0] * _BUCKETS
        self._failed = [0] * _BUCKETS

    def note(self, now: float, has_failed: bool) -> None:
        """Count a delivery, and drop the counts that are too old."""
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
