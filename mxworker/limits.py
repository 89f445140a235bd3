"""How long a worker process may live: what it has handled, its memory and its age, each with a limit.

Pure. The limits are jittered by a tenth, so that workers which were started together are not replaced together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mxworker.errors import ConfigError

JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """After what a worker is replaced: deliveries settled, bytes of resident memory, seconds. None means never."""

    messages: int | None = None
    rss_bytes: int | None = None
    age_s: float | None = None

    def __post_init__(self) -> None:
        for flag, limit in (("max-messages", self.messages), ("max-rss", self.rss_bytes), ("max-age", self.age_s)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"--{flag} is {limit}, but must be above 0.")

    def jittered(self, rng: random.Random) -> Limits:
        """Return limits for one process: each moved up or down by at most a tenth."""
        return Limits(
            None if self.messages is None else max(1, round(self.messages * _jitter(rng))),
            None if self.rss_bytes is None else max(1, round(self.rss_bytes * _jitter(rng))),
            None if self.age_s is None else self.age_s * _jitter(rng),
        )


def _jitter(rng: random.Random) -> float:
    return rng.uniform(1 - JITTER, 1 + JITTER)
