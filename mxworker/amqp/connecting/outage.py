"""What is told of attempts to connect that fail.

Told are the first one, each new reason once, and one every 10 s, after a minute one every minute. Reasons may take
turns, as those of a proxy do that has no broker behind it: of one broker, ten are told at most.

Pure; instants are loop times.
"""

from __future__ import annotations

AGAIN_S = 10.0
LONG_S = 60.0
_MOST_REASONS = 10


class Outage:
    """The failures of one process to reach its brokers, until it is connected again."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When the first failure was; None while there is no outage."""
        self._told: dict[str, tuple[set[str], float]] = {}  # by broker, of which there are few: the reasons, and when

    def is_news(self, broker: str, why: str, now: float) -> bool:
        """Take in that `broker` failed because of `why`, and say whether that is to be told."""
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
        """Take in that a broker lets us in; return since when there was an outage, None when there was none."""
        since, self.since = self.since, None
        self._told.clear()
        return since
