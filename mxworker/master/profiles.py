"""The profile of a worker that the operator asks for: which worker takes it, how far it is, and its result.

One profile is taken at a time in a service. It ends when the client has fetched the result or does not want it any
more, or when the client has not asked for five seconds, as it has then died. The master passes the result on in parts,
and does not look into it. The client writes the file: with the permissions of whoever asked, where they are. The
service may run as another user, and see another /tmp or a read-only root.

Knows nothing about sockets. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.board.layout import ProfileKind, Word
from mxworker.board.page import Board
from mxworker.control import protocol
from mxworker.control.protocol import PROFILE_PART_BYTES, RequestRefused
from mxworker.master.fleet import Fleet
from mxworker.master.slot import NS_PER_S, Slot
from mxworker.system.printable import foreign

BEGIN_NS = 5 * NS_PER_S
"""A worker looks for a profile to take four times a second. It is not begun when no thread of its Python can run."""
SLACK_NS = 60 * NS_PER_S
LEASE_NS = 5 * NS_PER_S

_ERROR_BYTES = 4096


@dataclass(slots=True)
class _Profile:
    """The present profile. `number` tells it from those before it."""

    number: int
    kind: str
    seconds: float
    slot: int
    pid: int
    asked_ns: int
    seen_ns: int
    """When the client was last heard of."""


class Profiles:
    """Has workers take profiles, one at a time."""

    def __init__(
        self, fleet: Fleet, board: Board, fd_of: Callable[[int], int], read: Callable[[int, int, int], bytes]
    ) -> None:
        """`fd_of(slot)` is the file for the result, `read(slot, size, at)` returns what is in it."""
        self._fleet = fleet
        self._board = board
        self._fd_of = fd_of
        self._read = read
        self._number = 0
        self._present: _Profile | None = None

    def begin(self, request: protocol.Profile, now_ns: int) -> Mapping[str, Any]:
        """Have a worker take a profile. Raises RequestRefused."""
        present = self._present
        if present is not None and now_ns - present.seen_ns < LEASE_NS:
            left_s = max(0.0, present.seconds - (now_ns - present.asked_ns) / NS_PER_S)
            raise RequestRefused(
                f"a {present.kind} profile of worker {present.slot} is being taken, for about {left_s:.0f} s more. "
                "Only one is taken at a time: wait for its end, or end it with Ctrl-C where it was asked for."
            )
        self._forget()
        slot, pid = self._chosen(request.worker)
        self._number += 1
        self._present = _Profile(self._number, request.kind, request.seconds, slot.number, pid, now_ns, now_ns)
        kind = ProfileKind[request.kind.upper()]
        self._board.checked(slot.number).want_profile(
            self._number, kind, round(request.seconds * 1000), self._fd_of(slot.number)
        )
        return {"number": self._number, "worker": slot.number, "pid": pid}

    def state(self, number: int, now_ns: int) -> Mapping[str, Any]:
        """Return how far a profile is: waiting, running, or done with a size. Raises RequestRefused when it failed."""
        profile = self._known(number)
        profile.seen_ns = now_ns
        try:
            return self._state(profile, now_ns)
        except RequestRefused:
            self._forget()
            raise

    def part(self, number: int, at: int, now_ns: int) -> Mapping[str, Any]:
        """Return a part of the result. Raises RequestRefused."""
        profile = self._known(number)
        profile.seen_ns = now_ns
        words = self._words(profile)
        if words[Word.PROFILE_ENDED] != number:
            raise RequestRefused(f"profile {number} is not complete.")
        size = max(0, min(PROFILE_PART_BYTES, words[Word.PROFILE_SIZE] - at))
        return {"part": base64.b64encode(self._read(profile.slot, size, at)).decode("ascii")}

    def end(self, number: int) -> Mapping[str, Any]:
        """End a profile and forget it. Raises RequestRefused."""
        self._known(number)
        self._forget()
        return {}

    def _state(self, profile: _Profile, now_ns: int) -> Mapping[str, Any]:
        words, who = self._words(profile), f"worker {profile.slot}"
        age_ns = now_ns - profile.asked_ns
        if words[Word.PROFILE_ENDED] == profile.number:
            if words[Word.PROFILE_FAILED]:
                why = self._read(profile.slot, min(words[Word.PROFILE_SIZE], _ERROR_BYTES), 0)
                text = foreign(why.decode("utf-8", "replace")) or "it could not hand it over"
                raise RequestRefused(f"{who} failed to take the profile: {text}. The log of the service says more.")
            return {"state": "done", "size": words[Word.PROFILE_SIZE]}
        if words[Word.PROFILE_BEGUN] == profile.number:
            if age_ns > BEGIN_NS + SLACK_NS + round(profile.seconds * NS_PER_S):
                raise RequestRefused(f"{who} does not end the profile. Ask for fewer seconds, or look with 'ctl dump'.")
            return {"state": "running"}
        if age_ns > BEGIN_NS:
            raise RequestRefused(
                f"{who} (process {profile.pid}) does not begin the profile: it still loads the application, its "
                "process is stopped, or code that is not Python does not let any of its threads run."
            )
        return {"state": "waiting"}

    def _words(self, profile: _Profile) -> Any:
        """Return the words of the worker that takes the profile. Raises RequestRefused when it has ended."""
        slot = next((slot for slot in self._fleet.slots if slot.number == profile.slot), None)
        if slot is None or slot.pid != profile.pid:
            raise RequestRefused(
                f"worker {profile.slot} (process {profile.pid}) ended before its profile was complete. "
                "The log of the service says how."
            )
        return self._board.told(profile.slot).words

    def _known(self, number: int) -> _Profile:
        if self._present is None or self._present.number != number:
            raise RequestRefused(f"profile {number} was ended.")
        return self._present

    def _forget(self) -> None:
        if self._present is not None:
            self._board.checked(self._present.slot).end_profile()
            self._present = None

    def _chosen(self, number: int | None) -> tuple[Slot, int]:
        """Return the worker for a profile, by default the one with most deliveries in flight, and its process."""
        alive = {slot.number: (slot, slot.pid) for slot in self._fleet.slots if slot.pid is not None}
        if not alive:
            raise RequestRefused("no worker runs now.")
        if number is None:
            number = max(alive, key=lambda each: (self._board.told(each).in_flight_count, -each))
        if number not in alive:
            raise RequestRefused(f"there is no worker {number}. There are: {', '.join(map(str, sorted(alive)))}.")
        return alive[number]
