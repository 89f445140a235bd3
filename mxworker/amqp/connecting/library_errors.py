"""Translate the exceptions of aio-pika and aiormq into our own, once and in one place.

The library reports a lost connection by almost any exception: its own classes, RuntimeError, a bare Exception, even a
CancelledError that nobody asked for (aiormq sets the reader's cancellation on every pending request). A cancellation
of our own task stays one; every other exception becomes a BrokerError that says what to do. Text from the broker goes
through `foreign` here, so that it is on one line, printable and bounded.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import aiormq.exceptions

from mxworker.amqp.connecting.tls import answered_in_tls, tls_error
from mxworker.errors import (
    BrokerError,
    ChannelLost,
    ConnectionLost,
    CredentialsRefused,
    ProtocolViolation,
    RequestFault,
    TlsRefused,
    TopologyRefused,
)
from mxworker.system.cancellation import cancel_requests, raise_own_cancellation
from mxworker.system.printable import foreign

ACCESS_REFUSED = 403
NOT_FOUND = 404
LOCKED = 405
PRECONDITION_FAILED = 406
_NOT_ALLOWED = 530

# Refusals that end without us: the node of the queue comes back, or its exclusive consumer leaves.
_PASSING = ("is down or inaccessible", "in exclusive use")
_REFUSALS: Mapping[type[aiormq.exceptions.AMQPError], int] = MappingProxyType(
    {
        aiormq.exceptions.ChannelAccessRefused: ACCESS_REFUSED,
        aiormq.exceptions.ChannelNotFoundEntity: NOT_FOUND,
        aiormq.exceptions.ChannelPreconditionFailed: PRECONDITION_FAILED,
    }
)
_WHOSE_FAULT = "Check the values that the code gives for it. If they are right, this is a bug of mxworker: report it."
_NAMED_CODE = re.compile(r"(?P<name>[A-Z_]+) - (?P<text>.*)", re.DOTALL)


@contextmanager
def library_errors(queue: str | None = None) -> Iterator[None]:
    """Translate the exceptions of the library inside the block, which makes a request about `queue` or about none.

    Raises TopologyRefused when a human has to change something, RequestFault when the request could not be sent, and
    ChannelLost or ConnectionLost when another attempt may work.
    """
    requests = cancel_requests()
    try:
        yield
    except (asyncio.CancelledError, Exception) as error:
        raise_own_cancellation(since=requests)
        raise _translate(error, queue) from error


def handshake_error(error: BaseException, close_reason: tuple[int, str] | None) -> BrokerError:
    """Return our exception for a failed handshake; `close_reason` is from the broker's connection.close, if any."""
    if close_reason is not None:
        code, text = close_reason[0], foreign(close_reason[1])
        if code in (ACCESS_REFUSED, _NOT_ALLOWED):
            return CredentialsRefused(f"the broker refused us: {code} {text}")
        return ConnectionLost(f"the broker closed the connection: {code} {text}")
    if isinstance(error.__cause__, ssl.SSLError) and isinstance(error, ConnectionLost):
        return tls_error(error.__cause__)  # in TLS 1.3 a broker refuses our certificate after our end of the handshake
    if isinstance(error, ProtocolViolation) and answered_in_tls(error):
        return TlsRefused("the broker speaks TLS on this port; write amqps:// instead of amqp://.")
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, aiormq.exceptions.AuthenticationError | aiormq.exceptions.ProbableAuthenticationError):
        return CredentialsRefused(f"the broker refused us: {foreign(error)}")
    if _is_local(error):
        return RequestFault(f"cannot connect, by a fault on this side: {_told(error)}.\n  {_WHOSE_FAULT}")
    return ConnectionLost(f"the handshake failed: {foreign(repr(error))}")


def _translate(error: BaseException, queue: str | None) -> BrokerError:
    if isinstance(error, BrokerError):
        return error
    text = foreign(error.args[0] if error.args else repr(error))
    subject = f"queue '{foreign(queue)}'" if queue is not None else "a channel"
    match error:
        case aiormq.exceptions.AMQPChannelError() if any(passing in text for passing in _PASSING):
            return ChannelLost(f"{subject}: {text}")
        case aiormq.exceptions.AMQPChannelError() if type(error) in _REFUSALS:
            code = _REFUSALS[type(error)]
            return TopologyRefused(_explain(subject, code, text), code, text, queue or "")
        case aiormq.exceptions.ChannelLockedResource():
            return ChannelLost(f"{subject}: {text}", LOCKED)
        case aiormq.exceptions.AMQPChannelError():
            return ChannelLost(f"{subject}: {text}")
        case _ if _is_local(error):
            return RequestFault(f"{subject}: a request cannot be sent: {_told(error)}.\n  {_WHOSE_FAULT}")
        case _:
            return ConnectionLost(f"{subject}: {foreign(repr(error))}")


def _is_local(error: BaseException) -> bool:
    """Tell whether `error` comes from a value that cannot be encoded.

    A lost connection, a refused certificate and unreadable bytes of the peer are other errors.
    """
    is_from_outside = isinstance(error, OSError | UnicodeDecodeError)
    return isinstance(error, TypeError | ValueError | OverflowError) and not is_from_outside


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {foreign(error)}"


def _explain(subject: str, code: int, text: str) -> str:
    found = _NAMED_CODE.match(text)
    name, details = (found["name"], found["text"]) if found else ("refused", text)
    return f"broker refused {subject}: {code} {name}, {details}."
