"""Whether the words of a slot make sense: what its worker has written is looked at here before the master believes it.

A worker runs code of others, some of it native, and may write anything to its slot. The master kills a worker whose
slot makes no sense, and believes of what it wrote only those words that make sense by themselves. What is no word
(texts, deliveries in flight) is read so that any bytes of it do no harm, see `reading`.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mxworker.board.layout import NOTE_BYTES, WORDS, Word
from mxworker.board.lifecycle import Wish, WorkerState

COUNTERS = (Word.ACKED, Word.REQUEUED, Word.RETRIED, Word.REJECTED, Word.QUARANTINED, Word.STALE)

_MOST_COUNTED = 1 << 53
_MOST_SINCE_LOOK = (
    1 << 32
)  # a look is due at least once in a heartbeat timeout; 1,000,000 a second for an hour are less
_BEYOND_TIMEOUT_NS = 120 * 1_000_000_000  # a worker that has drained promises a minute more than its drain may take
_MOST: Mapping[Word, int] = MappingProxyType(
    {
        Word.PID: 1 << 22,  # the most that the kernel gives (proc(5), pid_max)
        Word.STATE: max(WorkerState),
        Word.WISH: max(Wish),
        Word.IS_BURST_OVER: 1,
        Word.RSS_BYTES: 1 << 52,
        Word.EVER_READY: 1,
        Word.NOTE_LENGTH: NOTE_BYTES,
        **dict.fromkeys(COUNTERS, _MOST_COUNTED),
        Word.ISOLATION_WANTED: _MOST_COUNTED,
        Word.IS_ALONE: 1,
        Word.UNPLACED: 1 << 32,
        Word.CLEARINGS: _MOST_COUNTED,
    }
)
_NEVER_FALL = frozenset({*COUNTERS, Word.EVER_READY, Word.PLACES_USED, Word.CLEARINGS})


def latest_deadline_ns(now_ns: int, *timeouts_s: float) -> int:
    """Return the latest instant by which a worker with these timeouts may promise to beat."""
    return now_ns + round(max(timeouts_s) * 1e9) + _BEYOND_TIMEOUT_NS


def check(words: Sequence[int], before: Sequence[int], places: int, latest_deadline_ns: int) -> str | None:
    """Return which word of a slot makes no sense, and why; None when all do.

    `before` are the words of the last look at the same process. The slot has so many `places`, and no worker promises
    to beat later than at `latest_deadline_ns`.
    """
    for word in Word:
        fault = _fault(word, words[word], before[word], places, latest_deadline_ns)
        if fault is not None:
            return f"{word.name} {fault}"
    spare = next((place for place in range(len(Word), WORDS) if words[place]), None)
    return None if spare is None else f"word {spare} is {words[spare]}, and means nothing"


def believed(words: Sequence[int], before: Sequence[int], places: int, latest_deadline_ns: int) -> list[int]:
    """Return of each word of a slot the value that makes sense: the present one, or else that of the last look."""
    latest = list(before)
    for word in Word:
        if _fault(word, words[word], before[word], places, latest_deadline_ns) is None:
            latest[word] = words[word]
    return latest


def _fault(word: Word, value: int, before: int, places: int, latest_deadline_ns: int) -> str | None:
    """Return why a word cannot have this value."""
    match word:
        case Word.ALONE_KEY:
            return None  # any 64 bits are a key
        case Word.DEADLINE_NS:
            most = latest_deadline_ns
        case Word.PLACES_USED:
            most = places
        case _:
            most = _MOST[word]
    if value > most:
        return f"is {value}, where {most} is the most"
    if word in _NEVER_FALL and value < before:
        return f"has fallen from {before} to {value}"
    if word in COUNTERS and value - before > _MOST_SINCE_LOOK:
        return f"has risen from {before} to {value} since the last look"
    if word is Word.PID and before and value != before:
        return f"has changed from {before} to {value}"
    return None
