"""What a publisher tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Counts since the start: `tasks_queued` = processed + failed + dropped + in flight + waiting."""

    tasks_queued: int
    """Publishes asked for."""
    tasks_processed: int
    """Confirmed ones."""
    tasks_failed: int
    """Those that ended in any other way."""
    tasks_dropped: int
    """Those refused at a full window under `overflow="drop"`."""
    in_flight: int
    """Accepted ones without an outcome, at most `max_in_flight`."""
    waiting: int
    """Those whose caller waits for room in the window."""
    waiting_for: Mapping[str, int]
    """How many publishes wait now, by what they wait for.

    - "window": room among the `max_in_flight`. These are `waiting`; all others are among those `in_flight`.
    - "connection": a connection with a channel on it.
    - "room": that the socket or the broker takes more bytes.
    - "exchange": the answer whether their exchange exists.
    - "same id": the end of another publish with their message id.
    - "retry": their next attempt.

    What was sent waits for its confirm, and is not among these.
    """
    is_blocked: bool
    """Whether the broker takes no publishes now (https://www.rabbitmq.com/docs/connection-blocked)."""
