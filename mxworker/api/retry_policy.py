"""The number and the delays of retries, as a value.

A message waits for its retry in a queue of the broker. Each delay has a queue of its own, so the delays are a short
list of fixed steps: see `queues.Queue.retry_name`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mxworker.config.bounds import MAX_RETRIES

MAX_STEPS = 16
_MIN_DELAY_S = 0.01
_MAX_DELAY_S = 2_000_000.0  # a queue's TTL is a timer of the Erlang VM, which has 32 bits of milliseconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The retries of a handler's failed deliveries.

    `max_retries`: after this many retries the next failure dead-letters the message. A `Retry` and a `Requeue` both
    count. A message is executed at most `max_retries` + 1 times, not counting executions that a worker's death or a
    lost connection cut off. `delays`: seconds before the first, the second ... retry, ascending; the last delay holds
    for all further retries. Each delay is a queue beside the handler's own. With `jitter` a retry takes its own step or
    the next one, at random, so that messages that failed together do not come back together. Raises ValueError when a
    value is out of range, and TypeError when it has the wrong type.
    """

    max_retries: int = 3
    delays: Sequence[float] = (1.0, 5.0, 25.0)
    jitter: bool = True

    def __post_init__(self) -> None:
        self._check_types()
        if not 0 <= self.max_retries <= MAX_RETRIES:
            raise ValueError(f"max_retries is {self.max_retries!r}, but must be from 0 to {MAX_RETRIES}")
        if not 1 <= len(self.delays) <= MAX_STEPS:
            raise ValueError(f"delays has {len(self.delays)} steps, but must have from 1 to {MAX_STEPS}")
        for delay_s in self.delays:
            if not _MIN_DELAY_S <= delay_s <= _MAX_DELAY_S:
                raise ValueError(
                    f"a delay is {delay_s!r}, but must be from {_MIN_DELAY_S:g} to {_MAX_DELAY_S:g} seconds"
                )
        if list(self.steps_ms) != sorted(set(self.steps_ms)):
            raise ValueError(f"delays are {tuple(self.delays)}, but must ascend, by a millisecond at least")

    def _check_types(self) -> None:
        """Refuse values of other types than the annotations."""
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool):
            raise TypeError(f"max_retries is {self.max_retries!r:.80}, but must be a whole number")
        delays = self.delays
        if not isinstance(delays, Sequence) or not all(
            isinstance(delay_s, int | float) and not isinstance(delay_s, bool) for delay_s in delays
        ):
            raise TypeError(f"delays are {delays!r:.80}, but must be a list of seconds, such as (1, 5, 25)")
        if not isinstance(self.jitter, bool):
            raise TypeError(f"jitter is {self.jitter!r:.80}, but must be True or False")

    @property
    def steps_ms(self) -> tuple[int, ...]:
        """The delays in milliseconds, ascending; each has a retry queue."""
        return tuple(round(delay_s * 1000) for delay_s in self.delays)

    @property
    def max_attempts(self) -> int:
        """The most executions of a message."""
        return self.max_retries + 1

    def step_ms(self, attempt: int, rng: random.Random) -> int:
        """Return the delay of the retry after the failed `attempt`, counted from 1."""
        steps = self.steps_ms
        step = min(attempt, len(steps)) - 1
        return rng.choice(steps[step : step + 2]) if self.jitter else steps[step]

    def step_after_ms(self, after_s: float) -> int:
        """Return the shortest step that is at least `after_s` seconds long, else the last one."""
        steps = self.steps_ms
        # In seconds: 16.1 * 1000 is more than 16,100, but 16,100 / 1000 is 16.1.
        return next((step_ms for step_ms in steps if step_ms / 1000 >= after_s), steps[-1])


DEFAULT_RETRY = RetryPolicy()
