"""The counts of a publisher, and who else counts its publishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mxworker.errors import PublishError


class PublishTally(Protocol):
    """Counts publishes by exchange as they end. Its methods are called while the socket is read, and never raise."""

    def confirmed(self, exchange: str, body_bytes: int, took_s: float) -> None:
        """Count a publish that was confirmed, `took_s` seconds after it was accepted."""

    def failed(self, exchange: str, error: PublishError) -> None:
        """Count a publish that ended in another way."""

    def dropped(self, exchange: str) -> None:
        """Count a publish that was dropped at a full window."""


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Counts since the start: `tasks_queued` = processed + failed + dropped + in flight + waiting."""

    tasks_queued: int
    """All publishes."""
    tasks_processed: int
    """Publishes that were confirmed."""
    tasks_failed: int
    """Publishes that ended in any other way."""
    tasks_dropped: int
    """Publishes that were refused at a full window with `overflow="drop"`."""
    in_flight: int
    """Publishes that were accepted and have no outcome, at most `max_in_flight`."""
    waiting: int
    """Publishes whose caller waits for room in the window."""
    waiting_for: Mapping[str, int]
    """The number of publishes that wait now, by the cause.

    - "window": the window of `max_in_flight` is full. These are `waiting`; all others are `in_flight`.
    - "connection": there is no connection with a channel.
    - "room": the socket or the broker takes no more bytes now.
    - "exchange": it is not known yet whether the exchange exists.
    - "same id": another publish with the message id has no outcome yet.
    - "retry": the next attempt is later.

    Publishes that were sent wait for their confirm, and are not counted here.
    """
    is_blocked: bool
    """Whether the broker takes no publishes now (https://www.rabbitmq.com/docs/connection-blocked)."""
    open_channels: int
    """The number of channels that take publishes now."""
