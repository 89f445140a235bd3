"""What the AMQP library raises becomes one of our exceptions, whose text says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

import aiormq.exceptions
import pytest
from pamqp import commands

from mxworker import errors
from mxworker.amqp.connecting.library_errors import handshake_error, library_errors
from mxworker.system.cancellation import raise_own_cancellation


def translated(error: BaseException, queue: str = "orders") -> errors.BrokerError:
    """Return what a request about `queue` ends in when the library raises `error`."""

    async def request() -> None:
        with library_errors(queue):
            raise error

    with pytest.raises(errors.BrokerError) as caught:
        asyncio.run(request())
    assert caught.value is error or caught.value.__cause__ is error
    return caught.value


def channel_closed(code: int, text: str) -> BaseException:
    """Return what aiormq makes of the broker's channel.close."""
    return aiormq.channel.exception_by_code(commands.Channel.Close(code, text, 0, 0))


# ---- refusals


@pytest.mark.parametrize(
    ("code", "reply", "shown"),
    [
        (403, "ACCESS_REFUSED - access refused for user 'me'", "403 ACCESS_REFUSED, access refused for user 'me'"),
        (404, "NOT_FOUND - no queue 'orders' in vhost '/'", "404 NOT_FOUND, no queue 'orders' in vhost '/'"),
        (406, "PRECONDITION_FAILED - invalid arg", "406 PRECONDITION_FAILED, invalid arg"),
    ],
)
def test_refusal_is_quoted_with_its_code(code: int, reply: str, shown: str) -> None:
    error = translated(channel_closed(code, reply))
    assert isinstance(error, errors.TopologyRefused)
    assert error.permanent
    assert str(error) == f"broker refused queue 'orders': {shown}."
    assert (error.code, error.reply, error.queue) == (code, reply, "orders")


def test_text_of_another_shape_is_quoted_whole() -> None:
    assert str(translated(channel_closed(403, "no"))) == "broker refused queue 'orders': 403 refused, no."


@pytest.mark.parametrize(
    ("code", "text"),
    [(405, "RESOURCE_LOCKED - cannot obtain exclusive access"), (541, "INTERNAL_ERROR"), (0, "")],
)
def test_other_channel_errors_are_transient(code: int, text: str) -> None:
    error = translated(channel_closed(code, text))
    assert isinstance(error, errors.ChannelLost)
    assert not error.permanent


# ---- everything else is a lost connection


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        Exception(),
        RuntimeError("closed"),
        aiormq.exceptions.ChannelInvalidStateError("closed"),
        aiormq.exceptions.ConnectionClosed(320, "CONNECTION_FORCED"),
        aiormq.exceptions.AMQPConnectionError("reset"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_lost_connection_looks_like(error: BaseException) -> None:
    lost = translated(error)
    assert isinstance(lost, errors.ConnectionLost)
    assert not lost.permanent
    assert "orders" in str(lost)


# ---- what was never sent


LOCAL = [TypeError("no such type"), ValueError("no such value"), OverflowError("too much")]
OF_OTHERS = [ssl.SSLCertVerificationError("no such authority"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "junk")]


@pytest.mark.parametrize("error", LOCAL, ids=lambda error: type(error).__name__)
def test_what_could_not_be_encoded_is_no_lost_connection(error: Exception) -> None:
    fault = translated(error)
    assert isinstance(fault, errors.RequestFault)
    assert fault.permanent
    assert str(fault).startswith(f"queue 'orders': a request cannot be sent: {type(error).__name__}: {error}.\n")
    assert isinstance(handshake_error(error, None), errors.RequestFault)


@pytest.mark.parametrize("error", OF_OTHERS, ids=lambda error: type(error).__name__)
def test_what_comes_from_outside_is_no_fault_of_ours(error: Exception) -> None:
    assert isinstance(translated(error), errors.ConnectionLost)
    assert isinstance(handshake_error(error, None), errors.ConnectionLost)


@pytest.mark.parametrize("error", [errors.ProtocolViolation("junk"), errors.ChannelLost("closed", 404)])
def test_our_own_errors_pass_unchanged(error: errors.BrokerError) -> None:
    assert translated(error) is error


def test_end_of_the_process_is_no_broker_error() -> None:
    async def request() -> None:
        with library_errors("orders"):
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        asyncio.run(request())


# ---- cancellation


async def cancelled_while(raised: BaseException | None) -> BaseException | None:
    """Cancel a request that then sees `raised` (None: the cancellation itself); return what its task ends in."""

    async def request() -> None:
        with library_errors("orders"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if raised is None:
                    raise
                raise raised from None

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()


@pytest.mark.parametrize("raised", [None, Exception(), aiormq.exceptions.ConnectionClosed(0, "normal closed")])
def test_own_cancellation_stays_one_whatever_the_library_made_of_it(raised: BaseException | None) -> None:
    assert asyncio.run(cancelled_while(raised)) is None


def test_deadline_around_a_request_stays_a_timeout() -> None:
    async def request() -> None:
        async with asyncio.timeout(0.001):
            with library_errors("orders"):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(request())


async def after_a_failed_task_group(raised: BaseException) -> None:
    async def fail() -> None:
        raise OSError

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
    with library_errors("orders"):
        raise raised


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), Exception(), aiormq.exceptions.ConnectionClosed(0, "")])
def test_request_that_a_task_group_leaves_behind_is_no_cancellation(raised: BaseException) -> None:
    """As Python 3.11 and 3.12 do: the task looks for ever as if it were being cancelled."""
    with pytest.raises(errors.ConnectionLost):
        asyncio.run(after_a_failed_task_group(raised))


def test_task_that_nobody_cancelled_goes_on() -> None:
    async def check() -> None:
        raise_own_cancellation()

    asyncio.run(check())


# ---- the handshake


@pytest.mark.parametrize("code", [403, 530])
def test_refusal_in_the_handshake(code: int) -> None:
    error = handshake_error(errors.ConnectionLost("the socket closed"), (code, "ACCESS_REFUSED - no"))
    assert isinstance(error, errors.CredentialsRefused)
    assert error.permanent
    assert str(error) == f"the broker refused us: {code} ACCESS_REFUSED - no"


def test_other_close_in_the_handshake_is_transient() -> None:
    error = handshake_error(Exception(), (541, "INTERNAL_ERROR"))
    assert type(error) is errors.ConnectionLost
    assert str(error) == "the broker closed the connection: 541 INTERNAL_ERROR"


def test_refused_mechanism() -> None:
    error = handshake_error(aiormq.exceptions.AuthenticationError("EXTERNAL", ["PLAIN"]), None)
    assert isinstance(error, errors.CredentialsRefused)


def test_violation_in_the_handshake_passes_unchanged() -> None:
    violation = errors.ProtocolViolation("junk")
    assert handshake_error(violation, None) is violation


@pytest.mark.parametrize("error", [asyncio.CancelledError(), EOFError(), Exception()])
def test_anything_else_in_the_handshake_is_a_lost_connection(error: BaseException) -> None:
    assert type(handshake_error(error, None)) is errors.ConnectionLost
