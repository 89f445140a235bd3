"""Settings: what an operator can choose, checked once, at the edge.

Values here are frozen. Nothing in this module reads the environment or a command line; `cli` does, and passes strings
to the parsers below, whose errors name the setting, the value and the way out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

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
"""The most that RabbitMQ 3 takes unless told otherwise; 4 takes 16 MiB
(https://www.rabbitmq.com/docs/configure, max_message_size)."""
MAX_PREFETCH = 65535
MAX_WORKERS = 512
MAX_CHANNELS = 65535


def parse_duration_s(text: str) -> float:
    """Return the seconds that `text` means: `250ms`, `30s`, `5m`, `1h`, or a bare number of seconds.

    Raises ConfigError for anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


def parse_size_bytes(text: str) -> int:
    """Return the bytes that `text` means: `512MB` is 512,000,000, `1GiB` is 2**30; a bare number counts bytes.

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
    """What the master has to know. All durations in seconds. `quarantine_after`: see `Consumption`."""

    name: str
    workers: int
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0
    burst: bool = False
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The connections of one worker process, and the channels that its handlers borrow. All durations in seconds.

    One connection consumes and one publishes, always. The others, up to `max_connections`, carry borrowed channels:
    each is opened on demand and closed when nothing of it was borrowed for `idle_trim_s`, down to `min_connections`.
    `max_channels` and `warm_channels` are for each of those: how many it may have, never more than the broker allows,
    and how many of them stay open although nobody borrows them. `health_check_s` is the time from one look at all this
    to the next. Raises ConfigError when a value cannot work.
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
    """How a publisher publishes. Raises ConfigError when a value cannot work.

    `channels` publish; what goes to one exchange with one routing key takes the same one, in order, except for what had
    to be tried again, or had to wait because a message with its id was on its way.
    `max_in_flight` publishes may be without an outcome. `overflow` is what the next one finds then: "wait" for room;
    "raise" PublishOverflow; "drop" it, which is counted apart and which `publish_nowait` does not raise.
    `when_blocked` says whether publishes "wait" or "raise" PublishOverflow while the broker takes none.
    `timeout_s` is the time for one publish in seconds, over all attempts, waiting included. A refused publish is sent
    `attempts` times in all, which may duplicate it in those of its queues that took it. One whose fate is unknown is
    tried again only with `retry_unconfirmed`, for that may duplicate it, too.
    Bodies above `max_body_bytes` are refused: RabbitMQ 4 takes 16 MiB by default, 3.x takes 128 MiB. Where the broker
    takes less than that, one body too many costs a channel, and leaves its neighbours' fate unknown.
    """

    channels: int = 2
    max_in_flight: int = 10_000
    overflow: Literal["wait", "raise", "drop"] = "wait"
    when_blocked: Literal["wait", "raise"] = "wait"
    timeout_s: float = 5.0
    attempts: int = 3
    retry_unconfirmed: bool = False
    max_body_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("channels", "max_in_flight", "attempts", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"publisher: {name} is {getattr(self, name)}, but must be at least 1.")
        if not self.timeout_s > 0:  # so that NaN is refused too
            raise ConfigError(f"publisher: timeout_s is {self.timeout_s:g}, but must be a time above 0.")
        if self.overflow not in ("wait", "raise", "drop"):
            raise ConfigError(f"publisher: overflow is {self.overflow!r}, but must be 'wait', 'raise' or 'drop'.")
        if self.when_blocked not in ("wait", "raise"):
            raise ConfigError(f"publisher: when_blocked is {self.when_blocked!r}, but must be 'wait' or 'raise'.")


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a worker has to know. All durations in seconds.

    `concurrency`, `prefetch` and `handler_timeout_s` replace what the handlers in the code say, when they are not None.
    `queues` limits the worker to the handlers of those queues; empty means all. `process_concurrency` bounds the
    handlers that run at once in the process, all queues together, and `prefetch_budget_bytes` the bodies that it holds
    unsettled, with what they are decoded to; one body for each queue may come on top. A body above `max_body_bytes` is
    not read: its message becomes a dead letter, or, where the broker would drop what is rejected, its queue is not
    consumed any more. A message that has killed `quarantine_after` workers is taken out of its queue; with 0 none ever
    is. `boot_timeout_s` is the time to enter the lifespans. Code that other users could change is loaded when it
    `may_be_insecure`.
    """

    app: str
    brokers: Brokers
    app_dir: str | None = None
    may_be_insecure: bool = False
    queues: tuple[str, ...] = ()
    concurrency: int | None = None
    prefetch: int | None = None
    prefetch_budget_bytes: int = 256 * 1024 * 1024
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    handler_timeout_s: float | None = None
    process_concurrency: int = DEFAULT_PROCESS_CONCURRENCY
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0
    connect_wait_s: float = 30.0
    burst: bool = False
    limits: Limits = field(default_factory=Limits)
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER
    pool: PoolSettings = field(default_factory=PoolSettings)
    publisher: PublisherSettings = field(default_factory=lambda: PublisherSettings(retry_unconfirmed=True))
