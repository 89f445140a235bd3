"""The settings tree: everything that an operator can choose for a service, with its defaults and ranges.

Settings are frozen values. This module reads neither the environment nor a command line nor a file: `cli` does, and
makes the tree of what it finds. The objects of a service get what they use in `process`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mxworker.brokers import DEFAULT_HEARTBEAT_S, MAX_HEARTBEAT_S
from mxworker.config.bounds import (
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_PROCESS_CONCURRENCY,
    DEFAULT_QUARANTINE_AFTER,
    LOG_FORMATS,
    LOG_LEVELS,
    MAX_BODY_BYTES,
    MAX_WORKERS,
)
from mxworker.config.kinds import Choice, Duration, Size, Switch, Text, Texts, Whole, WholeOrAuto
from mxworker.config.leaf import group, leaf
from mxworker.config.limits import Limits
from mxworker.config.overrides import Overrides
from mxworker.config.pool import PoolSettings
from mxworker.config.publisher import PublisherSettings


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is."""

    urls: tuple[str, ...] = leaf(
        (),
        Texts("URL"),
        "The address of RabbitMQ: amqp[s]://user:password@host/vhost. Repeat the option to name brokers to fail over "
        "to.",
        name="broker-url",
        is_secret=True,
    )
    url_file: str | None = leaf(
        None,
        Text("FILE", is_file=True),
        "A file with one broker URL on each line, instead of --broker-url.",
        name="broker-url-file",
        unset="none",
    )
    embedded: bool = leaf(
        False,
        Switch(),
        "For development: start a broker that ends with this service, and loses all messages then. It listens on "
        "127.0.0.1:5672, or on the next free port.",
        name="embedded",
    )
    shuffle: bool = leaf(False, Switch(), "Try the brokers in a random order in each worker.", name="broker-shuffle")
    heartbeat_s: float = leaf(
        float(DEFAULT_HEARTBEAT_S),
        Duration(1.0, float(MAX_HEARTBEAT_S), is_whole=True),
        "The heartbeat of connections. A connection that brought no byte for twice this time is lost. A URL may have a "
        "'heartbeat' of its own.",
        name="broker-heartbeat",
    )
    tls_ca: str | None = leaf(
        None,
        Text("FILE", is_file=True),
        "The certificate authorities to trust for amqps://, in PEM format.",
        unset="the system's authorities",
    )
    tls_cert: str | None = leaf(
        None, Text("FILE", is_file=True), "The client certificate for the broker, in PEM format.", unset="none"
    )
    tls_key: str | None = leaf(
        None,
        Text("FILE", is_file=True),
        "The key of the client certificate, in PEM format.",
        unset="in the file of --tls-cert",
    )
    connect_wait_s: float = leaf(30.0, Duration(may_be_zero=True), "How long to try to reach the broker at the start.")


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """What of the application runs."""

    queues: tuple[str, ...] = leaf(
        (),
        Texts("NAMES", ","),
        "Consume only these queues; separate them by commas.",
        short="-Q",
        unset="all queues of the app",
    )
    exclude_queues: tuple[str, ...] = leaf(
        (),
        Texts("NAMES", ","),
        "Do not consume these queues; separate them by commas.",
        short="-X",
        unset="none",
    )
    app_dir: str | None = leaf(
        None,
        Text("DIRECTORY", is_directory=True),
        "The directory to import APP from, before all others.",
        unset="the current directory, after all others",
    )
    insecure_app_dir: bool = leaf(
        False,
        Switch(),
        "Run APP even if other users may change its code, and so act as the user of the service.",
    )
    burst: bool = leaf(False, Switch(), "Exit with code 0 when the queues are empty.")


@dataclass(frozen=True, slots=True)
class ConcurrencySettings:
    """How much may happen at once."""

    workers: int | None = leaf(
        None,
        WholeOrAuto(1, MAX_WORKERS),
        "The number of worker processes; auto is one for each CPU that this process may use.",
        short="-w",
    )
    process_concurrency: int = leaf(
        DEFAULT_PROCESS_CONCURRENCY,
        Whole(1, 65535),
        "How many handlers may run at once in each worker, for all queues together.",
    )
    prefetch_budget_bytes: int = leaf(
        256 * 1024 * 1024,
        Size(),
        "How much memory unsettled messages, with their decoded payloads, may take in each worker. A message that "
        "would take more by itself becomes a dead letter.",
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What is too large, too long, or too old."""

    max_body_bytes: int = leaf(
        DEFAULT_MAX_BODY_BYTES,
        Size(at_most_bytes=MAX_BODY_BYTES),
        "The largest body to read. A message with a larger body becomes a dead letter. If its queue has no dead-letter "
        "target, the queue is not consumed any more, so that the message is not lost.",
        name="max-body-size",
    )
    drain_timeout_s: float = leaf(
        30.0,
        Duration(may_be_zero=True),
        "How long running handlers may take to finish when the service stops.",
    )
    replace_after: Limits = group(Limits)
    quarantine_after: int = leaf(
        DEFAULT_QUARANTINE_AFTER,
        Whole(0, 1000),
        "Move a message to the quarantine queue after it has killed this many workers. 0 turns that off.",
    )


@dataclass(frozen=True, slots=True)
class SupervisionSettings:
    """How the master watches its workers, and how it is found."""

    heartbeat_timeout_s: float = leaf(
        30.0,
        Duration(2.0, why="workers beat once a second"),
        "Replace a worker whose event loop has not run for this long.",
    )
    boot_timeout_s: float = leaf(
        60.0, Duration(), "How long a worker may take to load the app and to enter its lifespans."
    )
    name: str | None = leaf(
        None,
        Text(),
        "The name of this service, by which 'mxworker status' and 'mxworker ctl' find it.",
        unset="DIRECTORY/APP",
    )
    control_socket: str | None = leaf(
        None,
        Text("PATH", is_file=True),
        "The socket for requests of 'mxworker status' and 'mxworker ctl'.",
        unset="in a runtime directory",
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What is served over HTTP."""

    address: str | None = leaf(
        None,
        Text("ADDR:PORT"),
        "Where to serve metrics, probes and the status page.",
        name="http",
        unset="127.0.0.1:9191, or the next free port",
    )
    off: bool = leaf(False, Switch(has_off=False), "Serve no HTTP.", name="no-http")
    token_file: str | None = leaf(
        None,
        Text("FILE", is_file=True),
        "A file with the token that is needed to see more than metrics and probes. An address that other machines can "
        "reach must have one.",
        name="http-token-file",
        unset="no token",
    )
    hosts: tuple[str, ...] = leaf(
        (),
        Texts("NAME"),
        "A host name under which clients may ask, such as that of a proxy; * is any. Repeat the option to give "
        "several.",
        name="http-host",
        unset="the host of --http and localhost",
    )


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """What is logged, and how."""

    level: str = leaf(
        "info",
        Choice(LOG_LEVELS, "LEVEL"),
        "The lowest level to log: debug, info, warning or error.",
        name="log-level",
    )
    format: str = leaf(
        "auto",
        Choice(LOG_FORMATS, "FORMAT"),
        "The format of the log: text, json, or auto, which is text on a terminal and json elsewhere.",
        name="log-format",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The root of the tree: everything that an operator can set for a service."""

    broker: BrokerSettings = group(BrokerSettings, "Broker")
    application: ApplicationSettings = group(ApplicationSettings, "Application")
    concurrency: ConcurrencySettings = group(ConcurrencySettings, "Concurrency")
    handlers: Overrides = group(Overrides, "Handlers")
    limits: LimitSettings = group(LimitSettings, "Limits")
    publisher: PublisherSettings = group(PublisherSettings, "Publisher", "publisher", retry_unconfirmed=True)
    pool: PoolSettings = group(PoolSettings, "Connections", "pool")
    supervision: SupervisionSettings = group(SupervisionSettings, "Supervision")
    http: HttpSettings = group(HttpSettings, "HTTP")
    logging: LoggingSettings = group(LoggingSettings, "Logging")


DEFAULTS = Settings()
