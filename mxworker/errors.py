"""The exceptions of mxworker and the exit codes of its processes.

The tree says what can go wrong, whose fault it is, and whether trying again can help:

    MxWorkerError
    +-- ConfigError          operator: a setting is missing or wrong          permanent
    +-- AppLoadError         application: it cannot be imported or compiled   permanent
    +-- BrokerError          the broker, or the way to it
    |   +-- ConnectionLost      the connection ended or could not be made     transient
    |   |   +-- ProtocolViolation  the peer sent what AMQP 0-9-1 forbids      transient
    |   +-- CredentialsRefused  the broker refuses user, password or vhost    permanent
    |   +-- TlsRefused          its certificate or ours is not accepted       permanent
    |   +-- ChannelLost         one channel ended, the connection did not     transient
    |   +-- TopologyRefused     a queue is not as the code says               permanent
    |   +-- QueueGivenUp        a queue ends the connection again and again   permanent
    |   +-- BodyTooLarge        a queue holds a message above the body limit  transient
    |   +-- RequestFault        application or us: a request cannot be sent   permanent
    |   +-- PoolExhausted       handlers hold every channel of the pool       transient
    +-- PublishError         a publish did not end in a confirmation
    |   +-- EncodeError         application: a body or property cannot be sent  permanent
    |   +-- MessageTooLarge     application: the message is above a limit      permanent
    |   +-- PublishOverflow     not sent: window full, or no broker in time    transient
    |   +-- PublishNacked       the broker refused the message                 transient
    |   +-- Unroutable          no queue takes it: a binding is missing        permanent
    |   +-- PublishUnconfirmed  sent, but the outcome is unknown               transient
    +-- DecodeError          publisher: the handler cannot take this body     permanent
    +-- InvariantError       us: a bug in mxworker, never caught              permanent

A `permanent` error comes again at the same attempt until a human changes something.
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


NEEDS_A_HUMAN = frozenset({ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER})
"""Exit codes of a start that fails again until a human changes something."""


class MxWorkerError(Exception):
    """The root of every exception that mxworker raises on purpose."""

    permanent: ClassVar[bool] = True
    exit_code: ClassVar[ExitCode] = ExitCode.RUNTIME


class ConfigError(MxWorkerError):
    """A setting is missing or wrong. The text says which one and what to do."""

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
    """The peer sent bytes that are not AMQP 0-9-1. The connection is closed."""


class CredentialsRefused(BrokerError):
    """The broker does not accept the user, the password or the virtual host."""


class TlsRefused(BrokerError):
    """No encrypted connection to the broker could be made. Nothing was sent in plain text."""


class ChannelLost(BrokerError):
    """One channel ended while its connection lives on. A new channel may work.

    `code` is the AMQP reply code, or None when the broker gave none (a server-sent basic.cancel).
    """

    permanent = False

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class TopologyRefused(BrokerError):
    """A queue is missing, is out of reach, or exists with other arguments than the code asks for.

    `code` is the AMQP reply code, or None without one, `reply` the broker's own text, and `queue` what was asked for.
    """

    def __init__(self, text: str, code: int | None = None, reply: str = "", queue: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.reply = reply
        self.queue = queue


class QueueGivenUp(BrokerError):
    """One queue made the broker end the whole connection again and again. It is not consumed for a while."""


class BodyTooLarge(BrokerError):
    """A message is above --max-body-size and would be lost if it were rejected. Its queue is not consumed."""

    permanent = False


class RequestFault(BrokerError):
    """A request failed on this side, before it was sent: a value that cannot be encoded, or a bug of mxworker."""


class PoolExhausted(BrokerError):
    """No channel could be borrowed in time, because handlers hold all channels of the pool. The text says how many."""

    permanent = False


class PublishError(MxWorkerError):
    """A publish did not end in a confirmation."""


class EncodeError(PublishError):
    """The body or a property cannot be encoded. Nothing was sent."""


class MessageTooLarge(PublishError):
    """The message is above a limit of mxworker or of the broker. It is in no queue."""


class PublishOverflow(PublishError):
    """The message was never sent: the window was full, the broker blocked us, or no connection was made in time."""

    permanent = False


class PublishNacked(PublishError):
    """The broker refused the message at every attempt, by basic.nack or by closing the channel.

    A message that is routed to several queues is refused when one queue refuses it; the other queues may have it
    (https://www.rabbitmq.com/docs/confirms#server-sent-nacks).
    """

    permanent = False


class Unroutable(PublishError):
    """The broker returned the message: its exchange is missing, or no binding matched. It is in no queue."""


class PublishUnconfirmed(PublishError):
    """The message was sent, but not confirmed: it may be in the queue or not. Publishing it again may duplicate it."""

    permanent = False


class DecodeError(MxWorkerError):
    """The body cannot be decoded as the handler's annotation asks, or the headers cannot be read."""


class InvariantError(MxWorkerError):
    """A bug in mxworker. Report it; never catch it."""
