"""The settings of the connections of a worker process."""

from __future__ import annotations

from dataclasses import dataclass

from mxworker.config.bounds import MAX_CHANNELS
from mxworker.config.kinds import Duration, Whole
from mxworker.config.leaf import check_fields, leaf
from mxworker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The connections of one worker process, and the channels that its handlers borrow.

    One connection always consumes and one always publishes. The others carry borrowed channels. Raises ConfigError when
    a value cannot work.
    """

    min_connections: int = leaf(
        2,
        Whole(2, 1000),
        "How many connections each worker keeps: one consumes, one publishes, and the others are for channels that "
        "handlers borrow.",
    )
    max_connections: int = leaf(
        4,
        Whole(3, 1000),
        "How many connections each worker may have. Those for borrowed channels are opened on demand.",
    )
    connect_timeout_s: float = leaf(
        10.0, Duration(), "How long a connection may take: TCP, TLS, authentication and the first channel."
    )
    health_check_s: float = leaf(
        30.0, Duration(), "How often idle channels are checked, and the health of the pool is logged."
    )
    idle_trim_s: float = leaf(
        60.0, Duration(), "How long a connection or channel for handlers stays open when nobody borrows it."
    )
    warm_channels: int = leaf(
        10, Whole(0, MAX_CHANNELS), "How many channels of a connection stay open while nobody borrows them."
    )
    max_channels: int = leaf(
        100,
        Whole(1, MAX_CHANNELS),
        "How many channels a connection may have for borrowers; never more than the broker allows.",
    )
    borrow_timeout_s: float = leaf(
        5.0, Duration(), "How long a handler waits for a channel before PoolExhausted is raised."
    )

    def __post_init__(self) -> None:
        check_fields(self, "pool: ")
        if self.min_connections > self.max_connections:
            raise ConfigError(
                f"pool: min_connections is {self.min_connections}, above max_connections, {self.max_connections}."
            )
