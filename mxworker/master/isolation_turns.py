"""Which worker may run a suspect alone now: one worker at a time, so that the others keep their rate.

A worker that wants a turn writes the number of its request into its slot, and 0 when it is done. Each request is good
for one suspect. A turn also ends when the suspect kills the worker. The slots get their turns in rotation.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class IsolationTurn(NamedTuple):
    """The request of a slot."""

    slot: int
    request: int


class IsolationTurns:
    """Gives each requesting slot its turn."""

    def __init__(self) -> None:
        self._present: IsolationTurn | None = None
        self._last_slot = 0

    def next(self, wanted: Mapping[int, int]) -> IsolationTurn | None:
        """Return a turn that is to be given now. `wanted` has the open requests by the slots of living workers."""
        present = self._present
        if present is not None and wanted.get(present.slot) == present.request:
            return None
        self._present = None
        if wanted:
            slot = min(wanted, key=lambda number: (number <= self._last_slot, number))
            self._present = IsolationTurn(slot, wanted[slot])
            self._last_slot = slot
        return self._present
