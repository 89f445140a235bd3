"""Looks at a service over its control socket, again and again, and remembers what its rates are made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxworker.cli.top.frame import Silence
from mxworker.control.client import ask
from mxworker.control.decoding import decoded
from mxworker.control.metrics_json import metrics_of
from mxworker.control.protocol import Metrics
from mxworker.control.status import ServiceStatus
from mxworker.errors import MxWorkerError
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.history import History
from mxworker.observer.overview.overview import overview
from mxworker.observer.overview.view import View


class NotUnderstood(MxWorkerError):
    """The answer is not that of a service of this version."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known now: the last view, and whether the service answers no more."""

    view: dict[str, Any]
    silence: Silence | None
    seen_s: float
    """For how long the service was looked at."""


class Watch:
    """Watches one service."""

    def __init__(self, path: Path, within_s: float) -> None:
        """`path` is the control socket; an answer that takes longer than `within_s` counts as none."""
        self._path = path
        self._within_s = within_s
        self._history = History()
        self._first_at: float | None = None
        self._last_at = 0.0
        self._view: dict[str, Any] = {}

    def first(self) -> Sight:
        """Look for the first time. Raises MxWorkerError when the service does not answer."""
        self._view = self._look()
        return Sight(self._view, None, 0.0)

    def look(self) -> Sight:
        """Look again. A service that does not answer is no error: it may be restarted under the same name."""
        silence = None
        try:
            self._view = self._look()
        except MxWorkerError as error:
            silence = Silence(time.monotonic() - self._last_at, str(error).partition("\n")[0])
        return Sight(self._view, silence, self._last_at - (self._first_at or self._last_at))

    def _look(self) -> dict[str, Any]:
        answer = ask(self._path, Metrics(), time.monotonic() + self._within_s)
        now = time.monotonic()
        try:
            status = decoded(ServiceStatus, answer["status"])
            view = View(time.time(), now, metrics_of(answer["metrics"]), status, told_s_ago=0.0)
            self._history.add(view)
            found = overview(Facts.of(view, self._history))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            raise NotUnderstood(
                "the answer cannot be understood: it comes from another program, or another version of mxworker."
            ) from None
        self._last_at = now
        if self._first_at is None:
            self._first_at = now
        return found
