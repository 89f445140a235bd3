"""Recycling: a worker that has reached a limit tells the master, and works on until its replacement is ready.

The number of settled deliveries is compared ten times a second, so that the limit is met closely by a fast worker too.
Memory and age are compared at each heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress

from mxworker.board.layout import Word
from mxworker.board.lifecycle import Wish
from mxworker.board.metrics import outcomes
from mxworker.board.metrics_layout import Outcome
from mxworker.board.slot import BoardSlot
from mxworker.config.limits import Limits
from mxworker.system.log_events import log_event
from mxworker.system.memory import resident_bytes

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1


class Recycling:
    """Compares this process with its limits. Belongs to one event loop."""

    def __init__(self, limits: Limits, slot: BoardSlot, rng: random.Random) -> None:
        self._limits = limits.jittered(rng)
        self._slot = slot
        self._started_at = time.monotonic()
        self._settled_before = self._settled()
        if limits.messages is not None:
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_often)

    def beat(self) -> None:
        """Write the memory of the process to the board, and compare the limits. Call at each heartbeat.

        While the process has no free descriptor to read its memory, the value of an earlier beat stays.
        """
        is_first = not self._slot.words[Word.RSS_BYTES]
        with suppress(OSError):
            self._slot.words[Word.RSS_BYTES] = resident_bytes()
        if is_first:
            self._slot.ring()
        self._look()

    def wish(self, wish: Wish) -> None:
        """Ask the master to replace this process; the first wish counts."""
        if self._slot.wish is Wish.NONE:
            self._slot.words[Word.WISH] = wish
            self._slot.ring()

    def _look_often(self) -> None:
        self._look()
        if self._slot.wish is Wish.NONE:
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_often)

    def _look(self) -> None:
        if self._slot.wish is not Wish.NONE:
            return
        settled = self._settled() - self._settled_before
        rss_bytes = self._slot.words[Word.RSS_BYTES]
        age_s = time.monotonic() - self._started_at
        wish = exceeded(self._limits, settled, rss_bytes, age_s)
        if wish is not Wish.NONE:
            log.info(
                "worker %d wishes to be replaced (%s): %d deliveries settled, %.1f MB resident, %.0f s old",
                self._slot.number,
                wish.name.lower(),
                settled,
                rss_bytes / 1e6,
                age_s,
                extra=log_event("recycle_wished", worker=self._slot.number, why=wish.name.lower()),
            )
            self.wish(wish)

    def _settled(self) -> int:
        counts = outcomes(self._slot.metrics)
        return sum(counts) - counts[Outcome.STALE]


def exceeded(limits: Limits, messages: int, rss_bytes: int, age_s: float) -> Wish:
    """Return the wish of a process with this number of settled deliveries, this memory and this age."""
    if limits.messages is not None and messages >= limits.messages:
        return Wish.MESSAGES
    if limits.rss_bytes is not None and rss_bytes >= limits.rss_bytes:
        return Wish.RSS
    if limits.age_s is not None and age_s >= limits.age_s:
        return Wish.AGE
    return Wish.NONE
