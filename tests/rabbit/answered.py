"""What RabbitMQ tells of a queue counts only when the queue itself has answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_GIVEN_UP_S = 0.24  # RabbitMQ says that a quorum queue is empty when it does not answer within 250 ms
_ATTEMPTS = 10

C = TypeVar("C", bound=tuple[int, int])


def answered(ask: Callable[[], C]) -> C:
    """Return the messages and consumers that `ask` tells of a queue; ask again when RabbitMQ may have given up.

    Raises AssertionError when it may have given up each time.
    """
    for _ in range(_ATTEMPTS):
        asked_at = time.monotonic()
        counts = ask()
        if counts != (0, 0) or time.monotonic() - asked_at < _GIVEN_UP_S:
            return counts
    raise AssertionError(f"RabbitMQ said {_ATTEMPTS} times, and each time late, that a queue is empty")
