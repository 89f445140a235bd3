"""Exponential backoff: how long to wait before the next attempt.

Pure: the caller counts the attempts, sleeps, and passes the source of randomness.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_SETTLED_AFTER_S = 5.0  # longer than the longest wait before a reconnect


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and `base_s * factor ** attempt`, at most `cap_s`.

    Full jitter best spreads processes that lost the same broker at the same moment
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    base_s: float
    cap_s: float
    factor: float = 2.0

    def ceiling_s(self, attempt: int) -> float:
        """Return the longest possible wait before attempt number `attempt`, counted from 0."""
        try:
            return float(min(self.cap_s, self.base_s * self.factor**attempt))
        except OverflowError:  # the number of attempts has no bound, a float has
            return float(self.cap_s)

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait before attempt number `attempt`, counted from 0."""
        return rng.uniform(0.0, self.ceiling_s(attempt))


def next_attempt(attempt: int, lived_s: float) -> int:
    """Return the number of the next attempt, after what attempt number `attempt` made has lived for `lived_s` seconds.

    A short life counts as a failure. Otherwise a connection that is lost at once would be remade without a pause.
    """
    return 0 if lived_s > _SETTLED_AFTER_S else attempt + 1


# A service is to be ready 5 s after its broker is back. The last of its workers may have just begun the longest wait.
# So that wait is 4 s, and 1 s is left for the handshake, the queues, and the way over the board. With a shorter one, a
# broker that has just started would get more handshakes at the same time (tests/pure/test_reconnecting.py).
# When 24 connections lose a broker for 2.5 s, no quarter of a second sees more than a third of the attempts. With a
# first wait of up to 0.2 s, some did (tests/chaos/test_herd.py).
RECONNECT = Backoff(base_s=0.5, cap_s=4.0)
REFUSED = Backoff(base_s=8.0, cap_s=8.0)  # slower, so that a wrong password does not lock the account
RESPAWN = Backoff(base_s=0.5, cap_s=30.0)
NACKING = Backoff(base_s=0.2, cap_s=5.0)  # how long a publisher channel may nack: about as long as a leader election
COPY = Backoff(base_s=0.5, cap_s=10.0)  # after no queue took the copy of a delivery
CPU_START = Backoff(base_s=1.0, cap_s=30.0)  # before a new process for cpu=True handlers, after one failed to start
