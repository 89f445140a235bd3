"""When to say again that the last reload was refused, so that its error stays in sight. Pure.

The service logs the error once. Lines about messages may move it out of sight while the old code goes on, so it is said
again, in one line, when messages were handled since. As long as nothing is logged, nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAY_AGAIN_S = 10.0
_LOOK_AGAIN_S = 1.0
_LOOK_AT_REFUSED_S = 5.0
_COUNTS = ("acked", "requeued", "retried", "rejected", "undecodable", "timed_out")
_SHOWN_CHARACTERS = 400


class RefusedReload:
    """What is known of the last reload. Times are monotonic."""

    def __init__(self) -> None:
        """There was no reload yet."""
        self.look_at: float | None = None
        """When the status of the service is wanted next; None when the reload was not refused."""
        self._said_at: float | None = None
        self._handled = 0

    def reload_began(self, now: float) -> None:
        """Begin to look at how the reload ends."""
        self.look_at, self._said_at = now + _LOOK_AGAIN_S, None

    def service_ended(self) -> None:
        """Forget the reload: nothing goes on with old code."""
        self.look_at = self._said_at = None

    def take(self, status: Mapping[str, Any], now: float) -> str | None:
        """Take in the status of the service, {} when it does not answer; return what to say now."""
        reload = status.get("reload")
        if reload is None or reload["state"] == "rolling":
            self.look_at = now + _LOOK_AGAIN_S
            return None
        if reload["state"] != "refused":
            self.service_ended()
            return None
        self.look_at = now + _LOOK_AT_REFUSED_S
        handled = sum(worker[count] for worker in status["workers"] for count in _COUNTS)
        if self._said_at is None:  # the service has just said it
            self._said_at, self._handled = now, handled
        elif handled != self._handled and now >= self._said_at + SAY_AGAIN_S:
            self._said_at, self._handled = now, handled
            return in_one_line(reload)
        return None


def in_one_line(reload: Mapping[str, Any]) -> str:
    """Return that the old code goes on, and why."""
    told = (reload["note"] or reload["why"]).removeprefix("Error: ")
    why = "  ".join(line.strip() for line in told.splitlines())
    text = f"The old code goes on: {why}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
