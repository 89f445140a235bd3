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
    |   +-- QueueGivenUp        a queue ends the connection again and again   permanent
    |   +-- BodyTooLarge        a queue holds a message that we do not read   transient
    |   +-- RequestFault        application or us: a request cannot be sent  permanent
    |   +-- PoolExhausted       handlers hold every channel there may be      transient
    +-- PublishError         a publish did not end in a confirmation
    |   +-- EncodeError         application: a body or property cannot be sent  permanent
    |   +-- MessageTooLarge     application: it is above a limit; not sent     permanent
    |   +-- PublishOverflow     not sent: no room, or no broker in time        transient
    |   +-- PublishNacked       the broker refused it                          transient
    |   +-- Unroutable          no queue takes it: a binding is missing        permanent
    |   +-- PublishUnconfirmed  sent, but its fate is unknown                  transient
    +-- DecodeError          publisher: the body is not what the handler takes permanent
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


class QueueGivenUp(BrokerError):
    """The broker ends the whole connection over one queue again and again, so that one is not consumed for a while."""


class BodyTooLarge(BrokerError):
    """A message is above --max-body-size and would be lost if it were rejected, so its queue is not consumed."""

    permanent = False


class RequestFault(BrokerError):
    """A request failed on this side, before it was sent: a value that cannot be encoded, or a bug of mxworker."""


class PoolExhausted(BrokerError):
    """No channel could be borrowed in time, because handlers hold all that there may be; the text says how many."""

    permanent = False


class PublishError(MxWorkerError):
    """A publish did not end in a confirmation."""


class EncodeError(PublishError):
    """The body or a property cannot be encoded. Nothing was sent."""


class MessageTooLarge(PublishError):
    """The message is above a limit of ours or of the broker. It is in no queue."""


class PublishOverflow(PublishError):
    """The message was never sent: the window was full, the broker blocked us, or no connection came up in time."""

    permanent = False


class PublishNacked(PublishError):
    """The broker refused the message, at every attempt: with basic.nack, or by closing the channel over it.

    A message that is routed to several queues is refused when one of them refuses it; the others may have it
    (https://www.rabbitmq.com/docs/confirms#server-sent-nacks).
    """

    permanent = False


class Unroutable(PublishError):
    """The exchange is missing, or no binding of it took the message: the broker returned it. It is in no queue."""


class PublishUnconfirmed(PublishError):
    """The message was sent, but no confirm came: it may be in the queue, or not. Publishing again may duplicate it."""

    permanent = False


class DecodeError(MxWorkerError):
    """A body cannot be decoded as the handler's annotation asks, or the headers cannot be read."""


class InvariantError(MxWorkerError):
    """mxworker broke its own rules. A bug: report it, never catch it."""
