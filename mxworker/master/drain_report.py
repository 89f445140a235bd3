"""The log lines of a drain: what the service waits for, for how long, and what the next Ctrl-C does.

This module is pure. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

HANDLERS_NAMED = 5
AGAIN_NS = 10_000_000_000
_NS_PER_S = 1_000_000_000


class DrainReport:
    """The lines of one drain: one at its start, and one every 10 s for as long as handlers run."""

    def __init__(self) -> None:
        self.due_ns: int | None = 0
        """The next instant at which `line` may return a line; None for never."""

    def line(self, running: Mapping[str, int], deadline_ns: int, now_ns: int, by_ctrl_c: bool) -> str | None:
        """Return the line that is due now, or None. `running` counts the running handlers by name."""
        if self.due_ns is None or now_ns < self.due_ns:
            return None
        is_first, self.due_ns = self.due_ns == 0, now_ns + AGAIN_NS
        left_s = max(0, deadline_ns - now_ns) / _NS_PER_S
        if is_first:
            return draining(running, left_s, by_ctrl_c)
        return still_draining(running, left_s) if running else None

    def end(self) -> None:
        """Return no more lines: the service no longer waits for handlers."""
        self.due_ns = None


def draining(running: Mapping[str, int], drain_s: float, by_ctrl_c: bool) -> str:
    """Return the line for the start of a drain."""
    if not running:
        return "draining: no handler is running"
    next_step = "; Ctrl-C again cancels them" if by_ctrl_c else ""
    return f"draining: waiting up to {drain_s:.0f} s for {in_words(running)}{next_step}"


def still_draining(running: Mapping[str, int], left_s: float) -> str:
    """Return the line for a drain that takes long."""
    return f"still draining: {in_words(running)} left; waiting up to {left_s:.0f} s more"


def cancelling(running: Mapping[str, int]) -> str:
    """Return the line for the second Ctrl-C."""
    if not running:
        return "stopping at once; Ctrl-C again kills the workers"
    return f"cancelling {in_words(running)}; the broker delivers again what is not done; Ctrl-C again kills the workers"


def killing(running: Mapping[str, int]) -> str:
    """Return the line for the third Ctrl-C, and for SIGQUIT."""
    if not running:
        return "killing the workers"
    return f"killing the workers with {in_words(running)}; the broker delivers again what is not done"


def in_words(running: Mapping[str, int]) -> str:
    """Return `3 handlers: order (2), invoice (1)`, sorted by count."""
    total = sum(running.values())
    most = Counter(running).most_common(HANDLERS_NAMED)
    named = [f"{name} ({count})" for name, count in most]
    if len(running) > HANDLERS_NAMED:
        named.append(f"{len(running) - HANDLERS_NAMED} others ({total - sum(count for _, count in most)})")
    return f"{total:,} {'handler' if total == 1 else 'handlers'}: {', '.join(named)}"
