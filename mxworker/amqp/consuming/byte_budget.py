"""The byte budget: how many bytes of unsettled bodies a process may hold.

AMQP's prefetch counts messages, not bytes, and the broker sends as many as it allows. So each delivery is checked by
its content header (`subscription.Subscription.takes`). A body that does not fit is skipped and given back, and its
consumer is paused until half of the budget is free. A consumer that holds nothing may always take one body, or it would
starve beside others. So a process holds at most the budget, plus one body for each of its consumers.

A large body is charged with `growth` times its size, for the payload that it is expected to become. When the body is
decoded, its real size is charged instead (by `decode_budget` of `worker.handling`).

Pure: this module knows neither consumers nor the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

LARGE_BODY_BYTES = 64 * 1024
"""A larger body is charged with its decoded size. Parsing one takes 0.2 ms; measuring it first takes 0.05 ms more."""


class ByteBudget:
    """The bytes held in one process, shared by all its subscriptions. Belongs to one event loop."""

    __slots__ = ("_waiting", "held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Start with nothing held."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        """The bytes held. A consumer that takes a body adds its size; `give_back` subtracts it."""
        self._waiting: list[Callable[[], None]] = []  # at most one for each consumer

    @property
    def has_recovered(self) -> bool:
        """Whether paused consumers may go on: below half of the budget, so that they do not pause again at once."""
        return self.held_bytes < self.limit_bytes // 2

    def give_back(self, size_bytes: int) -> None:
        """Subtract a settled body, and call everybody who waits."""
        self.held_bytes -= size_bytes
        if self._waiting:
            for retry in tuple(self._waiting):
                retry()

    def wait(self, retry: Callable[[], None]) -> None:
        """Call `retry` whenever a body is given back, until `stop_waiting`."""
        if retry not in self._waiting:
            self._waiting.append(retry)

    def stop_waiting(self, retry: Callable[[], None]) -> None:
        """Do not call `retry` any more."""
        if retry in self._waiting:
            self._waiting.remove(retry)

    def fitting_prefetch(self, body_bytes: int, most: int) -> int:
        """Return how many bodies of a size fit into half of the budget and into its free part, from 1 to `most`.

        It is half, so that bodies of twice the size still fit. With 0 the size is unknown, and `most` is returned.
        """
        if body_bytes == 0:
            return most
        room_bytes = min(self.limit_bytes // 2, self.limit_bytes - self.held_bytes)
        return max(1, min(most, room_bytes // body_bytes))


def reserved_bytes(body_bytes: int, growth: int) -> int:
    """Return the bytes to reserve for a body that is not decoded yet: for a large one, `growth` times its size."""
    return body_bytes if body_bytes <= LARGE_BODY_BYTES else body_bytes * growth
