"""Settings: what an operator can choose, checked once, at the edge.

Values here are frozen. Nothing in this module reads the environment or a command line; `cli` does, and passes strings
to the parsers below, whose errors name the setting, the value and the way out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mxworker.errors import ConfigError

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(ms|s|m|h|)", re.ASCII)
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

DEFAULT_PORT = 5672
DEFAULT_HEARTBEAT_S = 10
MAX_HEARTBEAT_S = 600
DEFAULT_CONCURRENCY = 32
DEFAULT_HANDLER_TIMEOUT_S = 30.0
MAX_PREFETCH = 65535

_WRITE_IT_LIKE = (
    "Write it like amqp://user:password@host:5672/vhost\n"
    "  In user, password and vhost write  / : @ ? # % [ ]  as  %2F %3A %40 %3F %23 %25 %5B %5D."
)


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
class BrokerUrl:
    """Where the broker is and who we are to it. `str` and `repr` never show the password.

    https://www.rabbitmq.com/docs/uri-spec; of its query parameters only `heartbeat` (seconds, 1 to 600) is taken.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat_s: int = DEFAULT_HEARTBEAT_S

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read an `amqp://user:password@host:port/vhost` URL; ConfigError says what is wrong, without the password."""
        scheme = text.strip().partition("://")[0].lower()
        if scheme == "amqps":
            raise ConfigError(
                "amqps:// is not supported yet, and mxworker never falls back to plain text.\n"
                "  Use amqp:// inside a private network, or a local TLS tunnel to the broker."
            )
        if scheme != "amqp":
            raise ConfigError(f"the broker URL does not start with amqp://.  {_WRITE_IT_LIKE}")
        parts, port = _split(text.strip())
        if not parts.hostname:
            raise ConfigError(f"the broker URL names no host.  {_WRITE_IT_LIKE}")
        return cls(
            host=parts.hostname,
            port=port,
            user=_decoded(parts.username) or "guest",
            password="guest" if parts.password is None else _decoded(parts.password),
            vhost=_decoded(parts.path[1:]) or "/",
            heartbeat_s=_heartbeat_from(parts.query),
        )

    @property
    def dsn(self) -> str:
        """The URL with the password in it, for the AMQP library alone."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@{self._netloc}/{quote(self.vhost, safe='')}?heartbeat={self.heartbeat_s}"

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"amqp://{quote(self.user, safe='')}:***@{self._netloc}/{vhost}"

    @property
    def _netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


# The texts of these errors are fixed: what is wrong with a URL is most often an unescaped password in it.


def _split(text: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise ConfigError(f"the broker URL cannot be read.  {_WRITE_IT_LIKE}") from None
    if not port:
        raise ConfigError("the broker URL has the port 0; a port is a number from 1 to 65535.")
    if "@" in parts.path + parts.query or parts.fragment:
        raise ConfigError(f"the broker URL has an unescaped / ? or # before its host.  {_WRITE_IT_LIKE}")
    return parts, port


def _decoded(part: str | None) -> str:
    try:
        return unquote(part or "", errors="strict")
    except UnicodeDecodeError:
        raise ConfigError("the broker URL has a %XX that is not UTF-8.") from None


def _heartbeat_from(query: str) -> int:
    heartbeat_s = DEFAULT_HEARTBEAT_S
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "heartbeat":
            raise ConfigError("the broker URL has a parameter that is not supported; only 'heartbeat' is.")
        if not re.fullmatch(r"[1-9][0-9]{0,2}", value) or int(value) > MAX_HEARTBEAT_S:
            raise ConfigError("'heartbeat' in the broker URL must be a whole number of seconds from 1 to 600.")
        heartbeat_s = int(value)
    return heartbeat_s


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
    broker: BrokerUrl
    app_dir: str | None = None
    queues: tuple[str, ...] = ()
    concurrency: int | None = None
    prefetch: int | None = None
    handler_timeout_s: float | None = None
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    connect_wait_s: float = 30.0
    burst: bool = False
