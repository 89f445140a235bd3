"""The slots of the board as the master reads them: only words that make sense are believed, see `check`."""

from __future__ import annotations

from collections.abc import Sequence

from mxworker.board.check import believed, check
from mxworker.board.layout import WORDS, Given, ProfileKind, Word
from mxworker.board.metric_rows import SavedMetrics
from mxworker.board.reading import Told
from mxworker.board.slot import BoardSlot


class CheckedSlot:
    """A slot as the master reads it: the words of the last look, as far as they made sense."""

    def __init__(self, slot: BoardSlot) -> None:
        self._slot = slot
        self._cleared = 0
        self._saved: SavedMetrics = []
        self.fault: str | None = None
        """Which word of the present worker made no sense, and why. What it writes after that is ignored."""
        self._believe(bytes(WORDS))

    def prepare(self, generation: int, is_on_trial: bool, boot_deadline_ns: int) -> None:
        """Make the slot ready for a new process, see `BoardSlot.prepare`, with the counts that the master believes.

        They are those of the last look at which the slot made sense, when it makes none now.
        """
        if self.fault is not None:
            self._slot.rows.restore(self._saved)
        self._slot.prepare(generation, is_on_trial, boot_deadline_ns, kept=self.told.words)
        self._cleared = 0
        self.fault = None
        self._believe(self._slot.words.tolist())

    def look(self, latest_deadline_ns: int) -> str | None:
        """Read the slot, and return its `fault`; see `check`. Takes about 20 us.

        When the slot as a whole makes no sense, the words that make sense by themselves are still believed.
        """
        if self.fault is None:
            bounds = self.told.words, self.told.places, latest_deadline_ns
            words = self._slot.words.tolist()
            self.fault = check(words, *bounds)
            self._believe(words if self.fault is None else believed(words, *bounds))
            if self.fault is None:
                self._saved = self._slot.rows.saved()
        return self.fault

    def new_clearings(self) -> list[tuple[int, int]]:
        """Return the requests to clear a suspect that are new since the last call."""
        found = self.told.clearings(self._cleared)
        self._cleared = self.told.words[Word.CLEARINGS]
        return found

    def grant(self, request: int) -> None:
        """Grant the worker's request of this number to run a suspect alone."""
        self._slot.given[Given.ISOLATION_GRANTED] = request

    def want_profile(self, number: int, kind: ProfileKind, milliseconds: int, fd: int) -> None:
        """Have the worker take a profile; `fd` is the file for its result."""
        given = self._slot.given
        given[Given.PROFILE_KIND], given[Given.PROFILE_MS], given[Given.PROFILE_FD] = kind, milliseconds, fd
        given[Given.PROFILE_WANTED] = number

    def end_profile(self) -> None:
        """Have the worker end the profile that it takes."""
        self._slot.given[Given.PROFILE_WANTED] = 0

    def _believe(self, words: Sequence[int]) -> None:
        self.told = Told(words, self._slot.view)
