"""Asks the service for its status, in a thread, so that the outer process never waits for an answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mxworker.control.client import ask
from mxworker.control.protocol import Identity, Status, directories
from mxworker.errors import MxWorkerError

_WITHIN_S = 2.0


class Inquiry:
    """At most one question is open at a time."""

    def __init__(self, identity: Identity, control_socket: str | None) -> None:
        """Ask the service with this identity, or the one at the path of a socket."""
        named = [place / identity.file_name for place in directories(os.environ, os.geteuid())]
        self._paths = named if control_socket is None else [Path(control_socket)]
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._is_open = False

    def ask(self) -> None:
        """Ask, unless a question is open."""
        if not self._is_open:
            self._is_open = True
            threading.Thread(target=self._ask, name="mxworker dev: status", daemon=True).start()

    def answer(self, pid: int) -> Mapping[str, Any] | None:
        """Return the status of the service `pid` as /status.json has it, once for each question; None: not yet.

        A service that does not answer, as while it starts, has the status {}.
        """
        try:
            found = self._answers.get_nowait()
        except Empty:
            return None
        self._is_open = False
        return found if isinstance(found, dict) and found.get("pid") == pid else {}

    def _ask(self) -> None:
        for path in self._paths:
            try:
                self._answers.put(ask(path, Status(), time.monotonic() + _WITHIN_S)["status"])
            except (MxWorkerError, LookupError, OSError):
                continue
            return
        self._answers.put(None)
