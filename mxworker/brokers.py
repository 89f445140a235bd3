"""The brokers: where they are, who we are to them, and which one to try next.

`Brokers` is what the operator wrote, frozen. `Rotation` is what one process has learnt about them; it decides, and
takes `now` for that.

Must not know: sockets, files, the event loop. No text made here shows a password, except `BrokerUrl.dsn`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mxworker.backoff import RECONNECT, REFUSED
from mxworker.errors import BrokerError, ConfigError, ConnectionLost

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
DEFAULT_HEARTBEAT_S = 10
MAX_HEARTBEAT_S = 600
COOL_DOWN_S = 30.0  # as long as a node of a cluster takes to come back; longer, and a cluster of two is one for minutes

_WRITE_IT_LIKE = (
    "Write it like amqp://user:password@host:5672/vhost, or amqps:// for TLS\n"
    "  In user, password and vhost write  / : @ ? # % [ ]  as  %2F %3A %40 %3F %23 %25 %5B %5D."
)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker is and who we are to it. `str` and `repr` never show the password.

    https://www.rabbitmq.com/docs/uri-spec; of its query parameters only `heartbeat` (seconds, 1 to 600) is taken.
    """

    host: str
    port: int = DEFAULT_PORTS["amqp"]
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat_s: int = DEFAULT_HEARTBEAT_S
    is_tls: bool = False

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read an `amqp://user:password@host:port/vhost` URL; ConfigError says what is wrong, without the password."""
        scheme = text.strip().partition("://")[0].lower()
        if scheme not in DEFAULT_PORTS:
            raise ConfigError(f"the broker URL does not start with amqp:// or amqps://.  {_WRITE_IT_LIKE}")
        parts, port = _split(text.strip(), DEFAULT_PORTS[scheme])
        if not parts.hostname:
            raise ConfigError(f"the broker URL names no host.  {_WRITE_IT_LIKE}")
        return cls(
            host=parts.hostname,
            port=port,
            user=_decoded(parts.username) or "guest",
            password="guest" if parts.password is None else _decoded(parts.password),
            vhost=_decoded(parts.path[1:]) or "/",
            heartbeat_s=_heartbeat_from(parts.query),
            is_tls=scheme == "amqps",
        )

    @property
    def dsn(self) -> str:
        """The URL with the password in it, for the AMQP library alone."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{self._scheme}://{login}@{self.place}/{quote(self.vhost, safe='')}?heartbeat={self.heartbeat_s}"

    @property
    def place(self) -> str:
        """Host and port alone."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_exposed(self) -> bool:
        """Whether password and messages cross a network in plain text."""
        return not self.is_tls and not _is_loopback(self.host)

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{self._scheme}://{quote(self.user, safe='')}:***@{self.place}/{vhost}"

    @property
    def _scheme(self) -> str:
        return "amqps" if self.is_tls else "amqp"


# The texts of these errors are fixed: what is wrong with a URL is most often an unescaped password in it.


def _split(text: str, default_port: int) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(text)
        port = default_port if parts.port is None else parts.port
    except ValueError:
        raise ConfigError(f"the broker URL cannot be read.  {_WRITE_IT_LIKE}") from None
    if not port:
        raise ConfigError("the broker URL has the port 0; a port is a number from 1 to 65535.")
    if "%" in (parts.hostname or ""):
        raise ConfigError(f"the broker URL has a % in its host.  {_WRITE_IT_LIKE}")
    if "@" in parts.path + parts.query or parts.fragment:
        raise ConfigError(f"the broker URL has an unescaped / ? or # before its host.  {_WRITE_IT_LIKE}")
    return parts, port


def _decoded(part: str | None) -> str:
    try:
        return unquote(part or "", errors="strict")
    except UnicodeDecodeError:
        raise ConfigError("the broker URL has a %XX that is not UTF-8.") from None


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name (RFC 6761, 6.3) or its address; no name server is asked."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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
class Tls:
    """The files that TLS stands on, in PEM form. The broker is always verified; there is no way to switch that off.

    Without `ca_file` the system's authorities are trusted, with it that file's alone. `certificate_file` is what we
    show a broker that asks; its key is in `key_file`, or in the same file.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


DEFAULT_TLS = Tls()


@dataclass(frozen=True, slots=True)
class Brokers:
    """The brokers a process may connect to, the preferred one first; at least one."""

    urls: tuple[BrokerUrl, ...]
    shuffled: bool = False
    tls: Tls = DEFAULT_TLS

    @classmethod
    def parse(cls, texts: Sequence[str], shuffled: bool = False, tls: Tls = DEFAULT_TLS) -> Brokers:
        """Read one or more URLs; one that is written twice counts once. Raises ConfigError, without a password.

        Plain text and TLS are not mixed: whoever can disturb the way to the TLS broker would get the password and the
        messages of the next attempt in plain text.
        """
        if not texts:
            raise ConfigError(f"no broker URL is given.  {_WRITE_IT_LIKE}")
        urls = tuple(dict.fromkeys(_numbered(number, len(texts), text) for number, text in enumerate(texts, 1)))
        if len({url.is_tls for url in urls}) > 1:
            raise ConfigError(
                "the broker URLs mix amqp:// and amqps://, so that a broker that is down would end encryption.\n"
                "  Write amqps:// for all of them, or amqp:// for all."
            )
        if tls != DEFAULT_TLS and not urls[0].is_tls:
            raise ConfigError("--tls-ca, --tls-cert and --tls-key mean nothing for amqp://; write amqps:// for TLS.")
        if tls.key_file and not tls.certificate_file:
            raise ConfigError("--tls-key without --tls-cert: a key is nothing without its certificate.")
        return cls(urls, shuffled, tls)

    @property
    def exposed_places(self) -> tuple[str, ...]:
        """Host and port of those to which password and messages go in plain text over a network."""
        return tuple(url.place for url in self.urls if url.is_exposed)

    def __str__(self) -> str:
        return ", ".join(map(str, self.urls)) + (" (shuffled)" if self.shuffled else "")


def _numbered(number: int, count: int, text: str) -> BrokerUrl:
    try:
        return BrokerUrl.parse(text)
    except ConfigError as error:
        if count == 1:
            raise
        raise ConfigError(f"URL {number} of {count}: {error}") from None


@dataclass(slots=True)
class _BrokerState:
    """What is known about one broker. Times are monotonic seconds."""

    error: BrokerError | None = None
    cools_until: float = 0.0
    barred_until: float = 0.0


class Rotation:
    """Which broker to try next. One per process, so that all its links know what one of them found out.

    A broker that failed cools down for 30 s: others are preferred, but it is tried when all of them cool. One that
    refused us is left alone for up to 8 s even then, so that a wrong password does not lock the account.
    """

    def __init__(self, brokers: Brokers, rng: random.Random) -> None:
        """Start with the first broker, or with any when they are shuffled."""
        urls = list(brokers.urls)
        if brokers.shuffled:
            rng.shuffle(urls)
        self._standings = {url: _BrokerState() for url in urls}
        self._rng = rng

    def turn(self, now: float) -> tuple[BrokerUrl, float]:
        """Return whose turn it is, and the moment before which it must not be tried; `now` or earlier means at once."""
        for url, standing in self._standings.items():
            if standing.cools_until <= now:
                return url, now
        url, standing = min(
            self._standings.items(), key=lambda item: (max(item[1].barred_until, now), item[1].cools_until)
        )
        return url, standing.barred_until

    def rest_s(self, attempt: int, now: float) -> float:
        """Return the seconds to rest before the next attempt, after attempt number `attempt` has failed, from 0.

        Backoff grows from round to round, not from broker to broker: the next one may be well.
        """
        _, open_at = self.turn(now)
        if open_at > now:
            return open_at - now
        rounds, begun = divmod(attempt + 1, len(self._standings))
        return RECONNECT.delay_s(0 if begun else rounds - 1, self._rng)

    def note_connected(self, url: BrokerUrl) -> None:
        """Take the news that `url` let us in."""
        self._standings[url] = _BrokerState()

    def note_failed(self, url: BrokerUrl, error: BrokerError, now: float) -> None:
        """Take the news that `url` did not let us in, or that a connection to it has ended."""
        if error.permanent:
            until = now + REFUSED.delay_s(0, self._rng)
            self._standings[url] = _BrokerState(error, until, until)
        else:
            self._standings[url] = _BrokerState(error, now + COOL_DOWN_S)

    @property
    def verdict(self) -> BrokerError | None:
        """Why there is no broker: permanent only when every one has refused us; None when nothing is wrong."""
        errors = [
            (url.place, standing.error) for url, standing in self._standings.items() if standing.error is not None
        ]
        if not errors:
            return None
        _, last = errors[-1]
        if len(self._standings) == 1:
            return last
        text = "\n  ".join(f"{place}: {error}" for place, error in errors)
        is_final = len(errors) == len(self._standings) and all(error.permanent for _, error in errors)
        return type(last)(text) if is_final else ConnectionLost(text)
