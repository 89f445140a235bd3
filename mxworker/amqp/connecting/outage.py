"""Which failed attempts to connect are logged.

For each broker these are the first failure, each new reason once, and one failure every 10 s, or every minute after the
first minute. Reasons may alternate, as they do with a proxy that has no broker behind it, so at most ten reasons of a
broker are logged as new.

Pure; times are loop times.
"""

from __future__ import annotations

AGAIN_S = 10.0
LONG_S = 60.0
_MOST_REASONS = 10


class Outage:
    """The failures of one process to reach its brokers, until it is connected again."""

    def __init__(self) -> None:
        self.since: float | None = None
        """The time of the first failure, None while there is no outage."""
        self._told: dict[str, tuple[set[str], float]] = {}  # broker -> its reasons, and the time of the last log line

    def is_news(self, broker: str, why: str, now: float) -> bool:
        """Record that `broker` failed because of `why`, and return whether to log that."""
        if self.since is None:
            self.since = now
        reasons, told_at = self._told.get(broker, (set(), now))
        is_known = why in reasons or len(reasons) == _MOST_REASONS
        again_s = AGAIN_S if now < self.since + LONG_S else LONG_S
        if is_known and now < told_at + again_s:
            return False
        if not is_known:
            reasons.add(why)
        self._told[broker] = (reasons, now)
        return True

    def end(self) -> float | None:
        """Record that a connection is up; return the start of the outage, None when there was none."""
        since, self.since = self.since, None
        self._told.clear()
        return since
