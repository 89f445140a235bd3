"""The limits after which a worker process is replaced: deliveries, memory and age.

Pure. Limits are jittered by 10 %, so that workers which started together are not replaced together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mxworker.config.kinds import Duration, Size, Whole
from mxworker.config.leaf import leaf
from mxworker.errors import ConfigError

JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Replace a worker after this many settled deliveries, bytes of resident memory, or seconds. None means never."""

    messages: int | None = leaf(
        None,
        Whole(1, 10**12),
        "Replace a worker after this many messages. Jittered by 10 %.",
        name="max-messages",
        unset="no limit",
    )
    rss_bytes: int | None = leaf(
        None,
        Size(at_least_bytes=1024 * 1024),
        "Replace a worker that uses more memory than this. Jittered by 10 %.",
        name="max-rss",
        unset="no limit",
    )
    age_s: float | None = leaf(
        None,
        Duration(),
        "Replace a worker that has run for this long. Jittered by 10 %.",
        name="max-age",
        unset="no limit",
    )

    def __post_init__(self) -> None:
        for flag, limit in (("max-messages", self.messages), ("max-rss", self.rss_bytes), ("max-age", self.age_s)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"--{flag} is {limit}, but must be above 0.")

    def jittered(self, rng: random.Random) -> Limits:
        """Return the limits for one process, each jittered by at most 10 % up or down."""
        return Limits(
            None if self.messages is None else max(1, round(self.messages * _jitter(rng))),
            None if self.rss_bytes is None else max(1, round(self.rss_bytes * _jitter(rng))),
            None if self.age_s is None else self.age_s * _jitter(rng),
        )


def _jitter(rng: random.Random) -> float:
    return rng.uniform(1 - JITTER, 1 + JITTER)
