"""The brokers: their addresses, our credentials, and which broker to try next.

`Brokers` holds the operator's settings, frozen. `Rotation` holds what one process has learnt about the brokers; it
decides, and takes `now` as an argument.

This module must not know sockets, files or the event loop. Nothing but `BrokerUrl.dsn` shows a password.
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
# About the time that a node of a cluster takes to restart. A longer time would leave a cluster of two with one node for
# minutes.
COOL_DOWN_S = 30.0

_WRITE_IT_LIKE = (
    "Write it like amqp://user:password@host:5672/vhost, or amqps:// for TLS\n"
    "  In user, password and vhost write  / : @ ? # % [ ]  as  %2F %3A %40 %3F %23 %25 %5B %5D."
)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """The address of a broker and our credentials there. `str` and `repr` never show the password.

    The format is that of https://www.rabbitmq.com/docs/uri-spec, but `heartbeat` (1 to 600 seconds) is the only query
    parameter that is supported.
    """

    host: str
    port: int = DEFAULT_PORTS["amqp"]
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat_s: int = DEFAULT_HEARTBEAT_S
    is_tls: bool = False

    @classmethod
    def parse(cls, text: str, heartbeat_s: int = DEFAULT_HEARTBEAT_S) -> BrokerUrl:
        """Parse an `amqp://user:password@host:port/vhost` URL. Raises ConfigError, which never shows the password.

        `heartbeat_s` is for a URL that says nothing of it.
        """
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
            heartbeat_s=_heartbeat_from(parts.query, heartbeat_s),
            is_tls=scheme == "amqps",
        )

    @property
    def dsn(self) -> str:
        """The URL with the password; only the AMQP library may get it."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{self._scheme}://{login}@{self.place}/{quote(self.vhost, safe='')}?heartbeat={self.heartbeat_s}"

    @property
    def place(self) -> str:
        """The host and the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_exposed(self) -> bool:
        """Whether the password and the messages cross a network in plain text."""
        return not self.is_tls and not _is_loopback(self.host)

    @property
    def is_guest_from_afar(self) -> bool:
        """Whether RabbitMQ refuses this user, which may only connect from the broker's machine."""
        return self.user == "guest" and not _is_loopback(self.host)

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{self._scheme}://{quote(self.user, safe='')}:***@{self.place}/{vhost}"

    @property
    def _scheme(self) -> str:
        return "amqps" if self.is_tls else "amqp"


# These errors never quote the URL: a wrong URL is most often one with an unescaped password.


def _split(text: str, default_port: int) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(text)
        port = default_port if parts.port is None else parts.port
    except ValueError:
        raise ConfigError(
            "the broker URL cannot be read: its port is no number from 1 to 65535, or a character before its host has "
            f"to be escaped.  {_WRITE_IT_LIKE}"
        ) from None
    if not port:
        raise ConfigError("the broker URL has the port 0; a port is a number from 1 to 65535.")
    if "%" in (parts.hostname or ""):
        raise ConfigError(f"the broker URL has a % in its host.  {_WRITE_IT_LIKE}")
    if "@" in parts.path + parts.query or parts.fragment:
        raise ConfigError(f"the broker URL has an unescaped / ? or # before its host.  {_WRITE_IT_LIKE}")
    return parts, port


def has_password(url: str) -> bool:
    """Tell whether the text of a URL, which may be wrong, has a password."""
    return "@" in url and ":" in url.partition("://")[2].rpartition("@")[0]


def _decoded(part: str | None) -> str:
    try:
        return unquote(part or "", errors="strict")
    except UnicodeDecodeError:
        raise ConfigError("the broker URL has a %XX that is not UTF-8.") from None


def _is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by name (RFC 6761, 6.3) or address, without asking a name server."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _heartbeat_from(query: str, heartbeat_s: int) -> int:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "heartbeat":
            raise ConfigError("the broker URL has a parameter that is not supported; only 'heartbeat' is.")
        if not re.fullmatch(r"[1-9][0-9]{0,2}", value) or int(value) > MAX_HEARTBEAT_S:
            raise ConfigError("'heartbeat' in the broker URL must be a whole number of seconds from 1 to 600.")
        heartbeat_s = int(value)
    return heartbeat_s


@dataclass(frozen=True, slots=True)
class Tls:
    """The files for TLS, in PEM form. The broker's certificate is always verified; that cannot be switched off.

    Without `ca_file` the system's certificate authorities are trusted, otherwise only those in `ca_file`.
    `certificate_file` is our certificate for brokers that ask for one. Its key is in `key_file`, or in the same file.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


DEFAULT_TLS = Tls()


@dataclass(frozen=True, slots=True)
class Brokers:
    """The brokers that a process may connect to: at least one, the preferred one first."""

    urls: tuple[BrokerUrl, ...]
    shuffled: bool = False
    tls: Tls = DEFAULT_TLS

    @classmethod
    def parse(
        cls,
        texts: Sequence[str],
        shuffled: bool = False,
        tls: Tls = DEFAULT_TLS,
        heartbeat_s: int = DEFAULT_HEARTBEAT_S,
    ) -> Brokers:
        """Parse one or more URLs; a repeated URL counts once. Raises ConfigError, which never shows a password.

        `heartbeat_s` is for URLs that say nothing of it.

        Plain text and TLS cannot be mixed: an attacker who can disturb the connection to the TLS broker would get the
        password and the messages from the next attempt in plain text.
        """
        if not texts:
            raise ConfigError(f"no broker URL is given.  {_WRITE_IT_LIKE}")
        parsed = [_numbered(number, len(texts), text, heartbeat_s) for number, text in enumerate(texts, 1)]
        urls = tuple(dict.fromkeys(parsed))
        if len({url.is_tls for url in urls}) > 1:
            raise ConfigError(
                "the broker URLs mix amqp:// and amqps://, so that a broker that is down would end encryption.\n"
                "  Write amqps:// for all of them, or amqp:// for all."
            )
        if tls != DEFAULT_TLS and not urls[0].is_tls:
            raise ConfigError("--tls-ca, --tls-cert and --tls-key mean nothing for amqp://; write amqps:// for TLS.")
        if tls.key_file and not tls.certificate_file:
            raise ConfigError("--tls-key without --tls-cert: name the file with the certificate of that key, too.")
        return cls(urls, shuffled, tls)

    @property
    def exposed_places(self) -> tuple[str, ...]:
        """The host and port of each broker that gets the password and the messages in plain text over a network."""
        return tuple(url.place for url in self.urls if url.is_exposed)

    def __str__(self) -> str:
        return ", ".join(map(str, self.urls)) + (" (shuffled)" if self.shuffled else "")


def _numbered(number: int, count: int, text: str, heartbeat_s: int) -> BrokerUrl:
    try:
        return BrokerUrl.parse(text, heartbeat_s)
    except ConfigError as error:
        if count == 1:
            raise
        raise ConfigError(f"URL {number} of {count}: {error}") from None


@dataclass(slots=True)
class _BrokerState:
    """What this process knows about one broker. Times are monotonic seconds."""

    error: BrokerError | None = None
    cools_until: float = 0.0
    barred_until: float = 0.0


class Rotation:
    """Decides which broker to try next. A process has one, so that all its connections share what one of them learns.

    A broker that failed cools down for 30 s: the others are preferred, but it is tried when all of them cool down. A
    broker that refused us is not tried for up to 8 s even then, so that a wrong password does not lock the account.
    """

    def __init__(self, brokers: Brokers, rng: random.Random) -> None:
        """Start with the first broker, or with a random one when the brokers are shuffled."""
        urls = list(brokers.urls)
        if brokers.shuffled:
            rng.shuffle(urls)
        self._standings = {url: _BrokerState() for url in urls}
        self._rng = rng

    def turn(self, now: float) -> tuple[BrokerUrl, float]:
        """Return the broker to try next and the earliest time to try it; `now` or earlier means at once."""
        for url, standing in self._standings.items():
            if standing.cools_until <= now:
                return url, now
        url, standing = min(
            self._standings.items(), key=lambda item: (max(item[1].barred_until, now), item[1].cools_until)
        )
        return url, standing.barred_until

    def rest_s(self, attempt: int, now: float) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 0, has failed.

        Backoff grows with each round over all brokers, not with each broker, because the next one may be healthy. All
        waits of a round together are as long as the one wait of a single broker, so that each of up to 8 brokers is
        tried within the same time after it is back.
        """
        _, open_at = self.turn(now)
        if open_at > now:
            return open_at - now
        rounds, begun = divmod(attempt + 1, len(self._standings))
        if begun:
            return RECONNECT.delay_s(0, self._rng)
        waited_s = RECONNECT.ceiling_s(0) * (len(self._standings) - 1)
        longest_s = max(RECONNECT.ceiling_s(0), RECONNECT.ceiling_s(rounds - 1) - waited_s)
        return self._rng.uniform(0.0, longest_s)

    def note_connected(self, url: BrokerUrl) -> None:
        """Record that a connection to `url` was made."""
        self._standings[url] = _BrokerState()

    def note_failed(self, url: BrokerUrl, error: BrokerError, now: float) -> None:
        """Record that a connection to `url` could not be made, or has ended."""
        if error.permanent:
            until = now + REFUSED.delay_s(0, self._rng)
            self._standings[url] = _BrokerState(error, until, until)
        else:
            self._standings[url] = _BrokerState(error, now + COOL_DOWN_S)

    @property
    def verdict(self) -> BrokerError | None:
        """Why no broker can be reached, or None. The error is permanent only when every broker has refused us."""
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
