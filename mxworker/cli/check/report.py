"""All that a check has learnt, as values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxworker.api.compilation import Handler
from mxworker.api.queues import Queue
from mxworker.cli.check.comparison import Compared
from mxworker.cli.check.findings import Finding
from mxworker.cli.check.totals import Host, Total
from mxworker.cli.config.rows import Row
from mxworker.errors import ExitCode

# What a client cannot learn over AMQP, and so the check does not know either.
NOT_VISIBLE = (
    "bindings",
    "policies, such as delivery limits, lengths or mirrors that they set",
    "consumer_timeout of the broker, which is 30m unless somebody changed it",
    "the limits of the virtual host and the user on queues, connections and channels",
)


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker that was asked."""

    url: str
    """Without the password."""
    server: str
    channel_max: int
    is_compared: bool
    """Whether arguments could be compared; only existence can, with a broker that is not RabbitMQ."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of an application and its broker."""

    app: str
    workers: int
    workers_origin: str
    settings: Sequence[Row]
    handlers: Sequence[Handler]
    declared: Sequence[Queue]
    """The queues that are declared and not consumed."""
    totals: Sequence[Total]
    host: Host
    topology: Sequence[Compared]
    broker: BrokerFacts | None
    """None when no broker was asked."""
    findings: Sequence[Finding]
    exit_code: ExitCode
