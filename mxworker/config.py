"""Settings: what an operator can choose, checked once, at the edge.

Values here are frozen. Nothing in this module reads the environment or a command line; `cli` does, and passes strings
to the parsers below, whose errors name the setting, the value and the way out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mxworker.brokers import Brokers
from mxworker.errors import ConfigError

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(ms|s|m|h|)", re.ASCII)
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

DEFAULT_CONCURRENCY = 32
DEFAULT_HANDLER_TIMEOUT_S = 30.0
MAX_PREFETCH = 65535


def parse_duration_s(text: str) -> float:
    """Return the seconds that `text` means: `250ms`, `30s`, `5m`, `1h`, or a bare number of seconds.

    Raises ConfigError for anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


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
    """What the master has to know. All durations in seconds."""

    name: str
    workers: int
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0
    burst: bool = False


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a worker has to know. All durations in seconds.

    `concurrency`, `prefetch` and `handler_timeout_s` replace what the handlers in the code say, when they are not None.
    `queues` limits the worker to the handlers of those queues; empty means all.
    """

    app: str
    brokers: Brokers
    app_dir: str | None = None
    queues: tuple[str, ...] = ()
    concurrency: int | None = None
    prefetch: int | None = None
    handler_timeout_s: float | None = None
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    connect_wait_s: float = 30.0
    burst: bool = False
