"""The check of a slot's words, before the master believes what the worker has written.

A worker runs code of others, some of it native, and may write anything to its slot. The master kills a worker whose
slot makes no sense, and believes only those of its words that make sense by themselves. Texts, deliveries in flight and
metrics are read so that any bytes do no harm, see `reading` and `metrics`.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mxworker.board.layout import NOTE_BYTES, PROFILE_BYTES, WORDS, Word
from mxworker.board.lifecycle import Wish, WorkerState

_MOST_COUNTED = 1 << 53
_BEYOND_TIMEOUT_NS = (
    120 * 1_000_000_000
)  # a worker that has drained promises its next beat a minute after the end of its drain
_MOST: Mapping[Word, int] = MappingProxyType(
    {
        Word.PID: 1 << 22,  # the largest that the kernel gives, see pid_max in proc(5)
        Word.STATE: max(WorkerState),
        Word.WISH: max(Wish),
        Word.IS_BURST_OVER: 1,
        Word.RSS_BYTES: 1 << 52,
        Word.EVER_READY: 1,
        Word.NOTE_LENGTH: NOTE_BYTES,
        Word.ISOLATION_WANTED: _MOST_COUNTED,
        Word.IS_ALONE: 1,
        Word.UNPLACED: 1 << 32,
        Word.CLEARINGS: _MOST_COUNTED,
        Word.PROFILE_BEGUN: _MOST_COUNTED,
        Word.PROFILE_ENDED: _MOST_COUNTED,
        Word.PROFILE_SIZE: PROFILE_BYTES,
        Word.PROFILE_FAILED: 1,
    }
)
_NEVER_FALL = frozenset({Word.EVER_READY, Word.PLACES_USED, Word.CLEARINGS})


def latest_deadline_ns(now_ns: int, *timeouts_s: float) -> int:
    """Return the latest heartbeat deadline that a worker with these timeouts may write."""
    return now_ns + round(max(timeouts_s) * 1e9) + _BEYOND_TIMEOUT_NS


def check(words: Sequence[int], before: Sequence[int], places: int, latest_deadline_ns: int) -> str | None:
    """Return which word of a slot makes no sense, and why; None when all of them make sense.

    `before` are the words at the last look at the same process, `places` is the number of the slot's places, and
    `latest_deadline_ns` is the latest heartbeat deadline that makes sense.
    """
    for word in Word:
        fault = _fault(word, words[word], before[word], places, latest_deadline_ns)
        if fault is not None:
            return f"{word.name} {fault}"
    spare = next((place for place in range(len(Word), WORDS) if words[place]), None)
    return None if spare is None else f"word {spare} is {words[spare]}, and means nothing"


def believed(words: Sequence[int], before: Sequence[int], places: int, latest_deadline_ns: int) -> list[int]:
    """Return for each word of a slot the present value if it makes sense, and else that of the last look."""
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
    if word is Word.PID and before and value != before:
        return f"has changed from {before} to {value}"
    return None
