"""Counts of letters by what they say: reason, handler, error type and hour.

The counts are bounded, although anybody may write any text into a letter: of each kind the first 500 texts are counted
one by one, and the rest together.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mxworker.letters.letter import Letter

MOST_TEXTS = 500
OTHERS = "(others)"
UNKNOWN = "(unknown)"
KINDS = ("reason", "handler", "error type", "hour")


@dataclass(slots=True)
class Summary:
    """What is counted, letter by letter, by `add`."""

    letters: int = 0
    body_bytes: int = 0
    oldest: float | None = None
    newest: float | None = None
    by: Mapping[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def add(self, letter: Letter) -> None:
        """Count a letter."""
        self.letters += 1
        self.body_bytes += letter.body_bytes
        if letter.failed_at is not None:
            self.oldest = min(letter.failed_at, self.oldest or letter.failed_at)
            self.newest = max(letter.failed_at, self.newest or letter.failed_at)
        texts = (letter.reason, letter.handler, letter.error_type, _hour(letter.failed_at))
        for counts, text in zip(self.by.values(), texts, strict=True):
            key = text or UNKNOWN
            if key not in counts and len(counts) >= MOST_TEXTS:
                key = OTHERS
            counts[key] = counts.get(key, 0) + 1


def in_order(kind: str, counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the counts of one kind: hours in their order, all others with the most frequent first."""
    if kind == "hour":
        return sorted(counts.items())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _hour(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:00")
