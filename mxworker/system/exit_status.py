"""How a process ended, in words."""

from __future__ import annotations

import signal


def in_words(status: int) -> str:
    """Return `SIGSEGV` or `exit code 1`. `status` is an exit code, or a signal's number below zero."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
