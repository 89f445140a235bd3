"""Settings: what an operator can choose, checked once, at the edge.

Settings are frozen values. This module reads neither the environment nor a command line: `cli` does, and passes strings
to the parsers below. Their errors name the setting and the value, and say what to do.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from mxworker.brokers import Brokers
from mxworker.errors import ConfigError
from mxworker.limits import Limits

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(ms|s|m|h|)", re.ASCII)
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(|B|kB|MB|GB|KiB|MiB|GiB)", re.ASCII | re.IGNORECASE)
_BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}

DEFAULT_CONCURRENCY = 32
DEFAULT_HANDLER_TIMEOUT_S = 30.0
DEFAULT_PROCESS_CONCURRENCY = 256
DEFAULT_QUARANTINE_AFTER = 3
DEFAULT_MAX_BODY_BYTES = 128 * 1024 * 1024
"""The largest body that RabbitMQ 3 takes by default (https://www.rabbitmq.com/docs/configure, max_message_size)."""
DEFAULT_MAX_PUBLISH_BYTES = 16 * 1024 * 1024
"""The largest body that RabbitMQ 4 takes by default."""
MAX_PREFETCH = 65535
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_WORKERS = 512
MAX_CHANNELS = 65535


def parse_duration_s(text: str) -> float:
    """Parse a duration into seconds: `250ms`, `30s`, `5m`, `1h`, or a bare number of seconds.

    Raises ConfigError for anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


def parse_size_bytes(text: str) -> int:
    """Parse a size into bytes: `512MB` is 512,000,000, `1GiB` is 2**30, and a bare number is a number of bytes.

    Raises ConfigError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a size.  Write it like 512MB, 256MiB or 1GiB.")
    size_bytes = int(float(match[1]) * _BYTES_PER_UNIT[match[2].lower()])
    if size_bytes < 1:
        raise ConfigError(f"'{text}' is too small a size; it must be at least one byte.")
    return size_bytes


def format_duration(seconds: float) -> str:
    """Return `seconds` the way an operator would write it."""
    if seconds < 1:
        return f"{_decimal(seconds * 1000)}ms"
    if seconds % 60 == 0:
        return f"{_decimal(seconds / 60)}m"
    return f"{_decimal(seconds)}s"


def _decimal(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Supervision:
    """The settings of the master. Durations are in seconds. For `quarantine_after` see `Consumption`."""

    name: str
    workers: int
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0
    burst: bool = False
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The connections of one worker process, and the channels that its handlers borrow. Durations are in seconds.

    One connection always consumes and one always publishes. The others, up to `max_connections`, carry borrowed
    channels. Such a connection is opened on demand, and closed when none of its channels was borrowed for
    `idle_trim_s`, unless only `min_connections` would be left. Each of them may have `max_channels` channels, but never
    more than the broker allows, and keeps `warm_channels` open while nobody borrows them. `health_check_s` is the time
    between two checks of the pool. Raises ConfigError when a value cannot work.
    """

    min_connections: int = 2
    max_connections: int = 4
    connect_timeout_s: float = 10.0
    health_check_s: float = 30.0
    idle_trim_s: float = 60.0
    warm_channels: int = 10
    max_channels: int = 100
    borrow_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        at_least = {"min_connections": 2, "max_connections": 3, "warm_channels": 0, "max_channels": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ConfigError(f"pool: {name} is {getattr(self, name)}, but must be at least {least}.")
        for name in ("connect_timeout_s", "health_check_s", "idle_trim_s", "borrow_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"pool: {name} is {getattr(self, name):g}, but must be a time above 0.")
        if self.min_connections > self.max_connections:
            raise ConfigError(
                f"pool: min_connections is {self.min_connections}, above max_connections, {self.max_connections}."
            )
        if self.max_channels > MAX_CHANNELS:
            raise ConfigError(f"pool: max_channels is {self.max_channels}, but AMQP has at most {MAX_CHANNELS}.")


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """The settings of a publisher, in a worker or from `Publisher.connect`.

    Raises ConfigError when a value cannot work.
    """

    channels: int = 2
    """Publishes are spread over this many channels. Those with one exchange and routing key take the same channel, in
    order, except for a publish that is retried or that had to wait for an earlier one with the same message id."""
    max_in_flight: int = 10_000
    """The window: how many publishes may be without an outcome."""
    overflow: Literal["wait", "raise", "drop"] = "wait"
    """How a publish at a full window is treated: "wait" lets it wait; "raise" raises PublishOverflow; "drop" drops it,
    which has its own counter, and `publish_nowait` does not raise."""
    when_blocked: Literal["wait", "raise"] = "wait"
    """Whether publishes wait or raise PublishOverflow while the broker blocks the connection."""
    timeout_s: float = 5.0
    """The bound on one publish in seconds, with all its attempts and waiting."""
    attempts: int = 3
    """A publish that the broker refuses is sent up to this many times in all. A retry may duplicate it in a queue that
    took it."""
    retry_unconfirmed: bool = False
    """Whether a publish with an unknown outcome is retried, too. The retry may duplicate it."""
    max_body_bytes: int = DEFAULT_MAX_PUBLISH_BYTES
    """Larger bodies are refused. Where the broker's limit is lower, a body above it costs the channel, and the other
    publishes on that channel end unconfirmed."""

    def __post_init__(self) -> None:
        for name in ("channels", "max_in_flight", "attempts", "max_body_bytes"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigError(f"publisher: {name} is {number!r}, but must be a whole number, at least 1.")
        if not isinstance(self.timeout_s, int | float) or not self.timeout_s > 0:  # this form refuses NaN too
            raise ConfigError(f"publisher: timeout_s is {self.timeout_s!r}, but must be a time above 0.")
        if not isinstance(self.retry_unconfirmed, bool):
            raise ConfigError(f"publisher: retry_unconfirmed is {self.retry_unconfirmed!r}, but must be True or False.")
        if self.overflow not in ("wait", "raise", "drop"):
            raise ConfigError(f"publisher: overflow is {self.overflow!r}, but must be 'wait', 'raise' or 'drop'.")
        if self.when_blocked not in ("wait", "raise"):
            raise ConfigError(f"publisher: when_blocked is {self.when_blocked!r}, but must be 'wait' or 'raise'.")


class PublisherOptions(TypedDict, total=False):
    """The fields of `PublisherSettings` as keyword arguments."""

    channels: int
    max_in_flight: int
    overflow: Literal["wait", "raise", "drop"]
    when_blocked: Literal["wait", "raise"]
    timeout_s: float
    attempts: int
    retry_unconfirmed: bool
    max_body_bytes: int


@dataclass(frozen=True, slots=True)
class Overrides:
    """The operator's values for all handlers, which override those in the code; None keeps the value in the code."""

    concurrency: int | None = None
    prefetch: int | None = None
    timeout_s: float | None = None


AS_IN_CODE = Overrides()


@dataclass(frozen=True, slots=True)
class Consumption:
    """The settings of a worker. Durations are in seconds.

    `overrides` replace the values of the handlers in the code. `queues` limits the worker to the handlers of those
    queues; empty means all. `process_concurrency` bounds the handlers that run at once in the process, over all queues.
    `prefetch_budget_bytes` bounds the unsettled bodies of the process with their decoded payloads; one body for each
    queue may come on top. A body above `max_body_bytes` is not read: its message becomes a dead letter, or, if the
    broker would drop a rejected message, its queue is not consumed any more. A message that has killed
    `quarantine_after` workers is taken out of its queue; 0 turns that off. `boot_timeout_s` is the time to enter the
    lifespans. With `may_be_insecure`, code that other users could change is loaded too.
    """

    app: str
    brokers: Brokers
    app_dir: str | None = None
    may_be_insecure: bool = False
    queues: tuple[str, ...] = ()
    overrides: Overrides = AS_IN_CODE
    prefetch_budget_bytes: int = 256 * 1024 * 1024
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    process_concurrency: int = DEFAULT_PROCESS_CONCURRENCY
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0
    connect_wait_s: float = 30.0
    burst: bool = False
    limits: Limits = field(default_factory=Limits)
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER
    metrics_directory: str | None = None
    """Where the application's own metrics are kept; None when nobody asks for them."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    publisher: PublisherSettings = field(default_factory=lambda: PublisherSettings(retry_unconfirmed=True))
