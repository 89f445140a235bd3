"""The exceptions of mxworker and the exit codes of its processes.

What can go wrong, whose fault it is, and whether trying again can help:

    MxWorkerError
    +-- ConfigError          operator: a setting is missing or wrong          permanent
    +-- AppLoadError         application: it cannot be imported or compiled   permanent
    +-- BrokerError          the broker, or the way to it
    |   +-- ConnectionLost      the connection ended or could not be made     transient
    |   |   +-- ProtocolViolation  the peer sent what AMQP 0-9-1 forbids      transient
    |   +-- CredentialsRefused  the broker does not let us in                 permanent
    |   +-- TlsRefused          its certificate or ours is not accepted       permanent
    |   +-- ChannelLost         one channel ended, the connection did not     transient
    |   +-- TopologyRefused     a queue is not as the code says               permanent
    |   +-- PoolExhausted       handlers hold every channel there may be      transient
    +-- DecodeError          publisher: the body is not what the handler takes permanent
    +-- PublishError         a publish did not end in a confirmation
    |   +-- EncodeError         publisher: body or property has no form to send  permanent
    |   +-- MessageTooLarge     publisher: above the limit, nothing was sent    permanent
    +-- InvariantError       us: a bug in mxworker, never caught              permanent

`permanent` says whether the same attempt, made again without a human changing something, fails again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """How an mxworker process ended. Exit codes are part of the public interface."""

    OK = 0
    RUNTIME = 1
    USAGE = 2
    APP_LOAD = 3
    BROKER = 4
    NEVER_READY = 5
    DRAIN_TIMEOUT = 6
    FORCED = 130


class MxWorkerError(Exception):
    """The root of every exception that mxworker raises on purpose."""

    permanent: ClassVar[bool] = True
    exit_code: ClassVar[ExitCode] = ExitCode.RUNTIME


class ConfigError(MxWorkerError):
    """A setting is missing or wrong; the text says which and what to do."""

    exit_code = ExitCode.USAGE


class AppLoadError(MxWorkerError):
    """The application cannot be imported, or a handler in it cannot work."""

    exit_code = ExitCode.APP_LOAD


class BrokerError(MxWorkerError):
    """The broker refused something or cannot be reached."""

    exit_code = ExitCode.BROKER


class ConnectionLost(BrokerError):
    """The connection ended, or could not be made. A new one may work."""

    permanent = False


class ProtocolViolation(ConnectionLost):
    """The peer sent bytes that are not AMQP 0-9-1. The connection is given up."""


class CredentialsRefused(BrokerError):
    """The broker does not accept the user, the password or the virtual host."""


class TlsRefused(BrokerError):
    """The broker and we do not come to an encrypted connection. Nothing was sent in plain text."""


class ChannelLost(BrokerError):
    """One channel ended while its connection lives on. A new channel may work.

    `code` is the AMQP reply code, or None when the broker gave none (a server-sent basic.cancel).
    """

    permanent = False

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class TopologyRefused(BrokerError):
    """A queue is missing, or exists with other arguments than the code asks for."""


class PoolExhausted(BrokerError):
    """No channel could be borrowed in time, because handlers hold all that there may be; the text says how many."""

    permanent = False


class DecodeError(MxWorkerError):
    """A body cannot be decoded as the handler's annotation asks, or the headers cannot be read."""


class PublishError(MxWorkerError):
    """A publish did not end in a confirmation."""


class EncodeError(PublishError):
    """The body or a property of a message cannot be encoded. Nothing was sent."""


class MessageTooLarge(PublishError):
    """A message is above the limit for its size. Nothing was sent."""


class InvariantError(MxWorkerError):
    """mxworker broke its own rules. A bug: report it, never catch it."""
