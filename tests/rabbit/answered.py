"""What RabbitMQ tells of a queue counts only when the queue itself has answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_GIVEN_UP_S = 0.24  # RabbitMQ says that a quorum queue is empty when it does not answer within 250 ms
_ATTEMPTS = 10
_ENOUGH_ANSWERS = 2
_ROUND_TRIPS = 3  # for each answer: on a busy machine the quickest counts

C = TypeVar("C", bound=tuple[int, int])
T = TypeVar("T")


def answered(ask: Callable[[], C], ask_of_no_queue: Callable[[], object]) -> C:
    """Return the messages and consumers that `ask` tells of a queue; ask again when RabbitMQ may have given up.

    RabbitMQ has not given up when all its answers are late: the quickest about the queue took about as long as the
    quickest of `ask_of_no_queue`. Raises AssertionError when it may have given up each time.
    """
    answers_s: list[float] = []
    round_trips_s: list[float] = []
    for _ in range(_ATTEMPTS):
        counts, answer_s = _timed(ask)
        if counts != (0, 0) or answer_s < _GIVEN_UP_S:
            return counts
        answers_s.append(answer_s)
        round_trips_s += [_timed(ask_of_no_queue)[1] for _ in range(_ROUND_TRIPS)]
        if len(answers_s) >= _ENOUGH_ANSWERS and min(answers_s) - min(round_trips_s) < _GIVEN_UP_S / 2:
            return counts
    raise AssertionError(
        f"RabbitMQ said {_ATTEMPTS} times that a queue is empty, and each time later than it answers other requests"
    )


def _timed(ask: Callable[[], T]) -> tuple[T, float]:
    """Return an answer, and how many seconds it took."""
    asked_at = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - asked_at
