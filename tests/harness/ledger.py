"""What happened to every message, written where a kill -9 cannot take it back, and the judgement over it.

`Ledger` is for handler modules in worker processes; several processes and threads write to one file. A record is one
`write` of a fixed size to a file opened with O_APPEND, so records of different writers never mix, and what was written
is in the page cache whatever becomes of the writer. (A machine that loses power is another matter, and not tested.)

`check` compares the records with what was to be done. Pure.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

RECORD_BYTES = 128  # divides a page: a reader never sees half a record of a writer that is just at work
_ID_BYTES = 80
_SHOWN = 5


class Event(StrEnum):
    """What a handler did."""

    START = "start"
    FINISH = "finish"


START = Event.START
FINISH = Event.FINISH


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the ledger. `at_ns` is the monotonic clock, the same in all processes of a machine."""

    id: str
    event: Event
    pid: int
    at_ns: int


class Ledger:
    """Writes records to `path`. Open it where it is used, after the fork."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()

    def write(self, event: Event, message_id: str) -> None:
        """Append one record; an id longer than 80 bytes, or one that a line cannot hold, is a ValueError."""
        line = f"{message_id:<80} {event:<8} {self._pid:>10} {time.monotonic_ns():>26}\n".encode()
        if len(line) != RECORD_BYTES or line.count(b"\n") != 1:
            raise ValueError(f"not an id for the ledger: {message_id!r}")
        os.write(self._fd, line)

    def start(self, message_id: str) -> None:
        """Write that a handler begins."""
        self.write(START, message_id)

    def finish(self, message_id: str) -> None:
        """Write that a handler is done; call it as the handler's last act."""
        self.write(FINISH, message_id)

    def close(self) -> None:
        """Close the file. A process that ends need not."""
        os.close(self._fd)


def read(path: str | os.PathLike[str], skip: int = 0) -> list[Record]:
    """Return the records after the first `skip`, in the order in which they were written.

    A file that is not there yet is empty.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(skip * RECORD_BYTES)
            raw = file.read()
    except FileNotFoundError:
        return []
    if len(raw) % RECORD_BYTES:
        raise ValueError(f"{path} holds {len(raw)} bytes, not a whole number of records")
    return [_record(raw[start : start + RECORD_BYTES]) for start in range(0, len(raw), RECORD_BYTES)]


def count(path: str | os.PathLike[str]) -> int:
    """Return how many records there are, without reading them."""
    try:
        return Path(path).stat().st_size // RECORD_BYTES
    except FileNotFoundError:
        return 0


def _record(line: bytes) -> Record:
    event, pid, at_ns = line[_ID_BYTES:].split()
    return Record(line[:_ID_BYTES].rstrip(b" ").decode(), Event(event.decode()), int(pid), int(at_ns))


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found. Every field is empty when each message was handled exactly once.

    lost        expected, never finished, and not in the queue either
    unexpected  handled or in the queue, but nobody sent it
    duplicates  id -> how many copies too many: handlers started more than once, or copies left in the queue
    refinished  finished more than once: the duplicates whose effect happened twice
    came_back   finished and still in the queue: the acknowledgement did not arrive
    overlapping started while another handler, which later finished, was at work on the same id
    unfinished  started more often than finished: its worker died, or is still at work
    """

    expected: int
    started: int
    finished: int
    in_queue: int
    lost: frozenset[str] = frozenset()
    unexpected: frozenset[str] = frozenset()
    duplicates: dict[str, int] = field(default_factory=dict)
    refinished: frozenset[str] = frozenset()
    came_back: frozenset[str] = frozenset()
    overlapping: frozenset[str] = frozenset()
    unfinished: frozenset[str] = frozenset()

    @property
    def duplicate_count(self) -> int:
        """How many times a handler started, or a message stayed in the queue, beyond the first."""
        return sum(self.duplicates.values())

    @property
    def nothing_lost(self) -> bool:
        """Whether the promise was kept: at least once, and nothing that nobody sent."""
        return not self.lost and not self.unexpected

    @property
    def exactly_once(self) -> bool:
        """Whether, beyond the promise, nothing was done twice."""
        return self.nothing_lost and not self.duplicates and not self.came_back

    def __repr__(self) -> str:
        totals = f"{self.expected} expected, {self.started} started, {self.finished} finished, {self.in_queue} in queue"
        groups = {
            "lost": self.lost,
            "unexpected": self.unexpected,
            "duplicates": self.duplicates,
            "refinished": self.refinished,
            "came back": self.came_back,
            "overlapping": self.overlapping,
            "unfinished": self.unfinished,
        }
        faults = "".join(f"; {name} {_some(ids)}" for name, ids in groups.items() if ids)
        return f"Report({totals}{faults})"


def check(expected_ids: Iterable[str], records: Iterable[Record], left_in_queue: Iterable[str] = ()) -> Report:
    """Judge what happened to the messages `expected_ids`; `left_in_queue` are the ids drained at the end."""
    expected = frozenset(expected_ids)
    queued = Counter(left_in_queue)
    history: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        history[record.id].append(record)
    starts = Counter({id_: sum(record.event is START for record in its) for id_, its in history.items()})
    finishes = +Counter({id_: sum(record.event is FINISH for record in its) for id_, its in history.items()})
    extra = {id_: max(0, starts[id_] - 1) + max(0, queued[id_] - 1) for id_ in starts.keys() | queued.keys()}
    return Report(
        expected=len(expected),
        started=starts.total(),
        finished=finishes.total(),
        in_queue=queued.total(),
        lost=expected - finishes.keys() - queued.keys(),
        unexpected=frozenset((starts.keys() | finishes.keys() | queued.keys()) - expected),
        duplicates={id_: times for id_, times in extra.items() if times},
        refinished=frozenset(id_ for id_, times in finishes.items() if times > 1),
        came_back=frozenset(finishes.keys() & queued.keys()),
        overlapping=frozenset(id_ for id_, times in starts.items() if times > 1 and _overlap(history[id_])),
        unfinished=frozenset(id_ for id_, times in starts.items() if times > finishes[id_]),
    )


def _overlap(history: list[Record]) -> bool:
    """Say whether a handler started while another one was at work that is known to have lived on.

    A start without a finish proves nothing: its worker may have died the moment after.
    """
    ordered = sorted(history, key=lambda record: record.at_ns)
    for position, first in enumerate(ordered):
        if first.event is FINISH:
            continue
        until_its_end: list[Record] = []
        for record in ordered[position + 1 :]:
            if record.pid == first.pid and record.event is FINISH:
                if any(between.event is START for between in until_its_end):
                    return True
                break
            until_its_end.append(record)
    return False


def _some(ids: Iterable[str]) -> str:
    ordered = sorted(ids)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{len(ordered)}: {', '.join(ordered[:_SHOWN])}{more}"
