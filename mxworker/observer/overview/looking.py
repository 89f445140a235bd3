"""Reads the board: makes a `View` of what stands there now. It waits for nobody."""

from __future__ import annotations

import time

import orjson

from mxworker.board.metrics import fold
from mxworker.board.page import Board
from mxworker.control.decoding import decoded
from mxworker.control.status import ServiceStatus
from mxworker.errors import InvariantError
from mxworker.observer.overview.view import View

_NS_PER_S = 1_000_000_000


class Lookout:
    """Looks at one board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._number = 0
        self._service: ServiceStatus | None = None
        """What the status with this number says."""

    def view(self) -> View:
        """Return what the board says now."""
        service, told_s_ago = self.told()
        return View(
            now_unix_s=time.time(),
            now_s=time.monotonic(),
            metrics=fold(self._board),
            service=service,
            told_s_ago=told_s_ago,
        )

    def told(self) -> tuple[ServiceStatus, float]:
        """Return what the master told last, and how many seconds ago that was."""
        written = self._board.status.read()
        if written is not None and written.number != self._number and written.text:
            self._service = decoded(ServiceStatus, orjson.loads(written.text))
            self._number = written.number
        if written is None or self._service is None:
            raise InvariantError("the master starts the observer after it has written the status of the service")
        return self._service, max(0, time.monotonic_ns() - written.at_ns) / _NS_PER_S
