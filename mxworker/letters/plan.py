"""Decide which letters a command takes, before it takes any.

The plan is made in a look and names the letters by their keys. So the command takes only letters that were there when
it began, wherever they are in the queue when it takes them.

Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mxworker.letters.filters import Filters
from mxworker.letters.letter import Letter
from mxworker.letters.summary import Summary

LONGEST_S = 25 * 60.0
"""How long letters may be held: somewhat less than the 30 minutes after which the broker closes the channel by default
(https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)."""


@dataclass(slots=True)
class Plan:
    """The letters that a command takes: those that match, at most `limit`, replayed fewer than `max_replays` times."""

    filters: Filters
    limit: int | None = None
    max_replays: int | None = None
    chosen: Counter[str] = field(default_factory=Counter)
    """How many letters of each key are to be taken. Letters of one key are the same in all that they say."""
    summary: Summary = field(default_factory=Summary)
    """The counts of the chosen letters."""
    replayed_too_often: int = 0

    def see(self, letter: Letter) -> None:
        """Choose a letter or not."""
        if self.filters.match(letter) and (self.limit is None or self.letters < self.limit):
            if self.max_replays is not None and letter.replays >= self.max_replays:
                self.replayed_too_often += 1
            else:
                self.chosen[letter.key] += 1
                self.summary.add(letter)

    @property
    def letters(self) -> int:
        """How many letters are chosen."""
        return self.summary.letters

    def takes(self, key: str) -> bool:
        """Tell whether a letter that came is one of the chosen. Each is taken once."""
        if self.chosen[key] < 1:
            return False
        self.chosen[key] -= 1
        return True

    @property
    def left(self) -> int:
        """How many of the chosen letters did not come yet."""
        return self.chosen.total()


def too_slow(letters: int, rate: float | None) -> str | None:
    """Return why letters cannot be replayed at this rate, and what to do; None when they can."""
    if rate is None or letters <= rate * LONGEST_S:
        return None
    at_once = max(1, int(rate * LONGEST_S))
    return (
        f"at {rate:g} a second, {letters:,} letters take {letters / rate / 60:,.0f} minutes, but the broker lets no "
        f"delivery wait for more than 30.\n  Do it in parts, with --limit {at_once}, or choose a higher --rate."
    )
