"""Every error says whether trying again can help, and how the process ends that dies of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mxworker import errors
from mxworker.errors import (
    AppLoadError,
    BodyTooLarge,
    BrokerError,
    ChannelLost,
    ConfigError,
    ConnectionLost,
    CredentialsRefused,
    DecodeError,
    ExitCode,
    InvariantError,
    MxWorkerError,
    PoolExhausted,
    ProtocolViolation,
    PublishNacked,
    PublishOverflow,
    PublishUnconfirmed,
    TlsRefused,
    TopologyRefused,
)


def descendants(of: type[MxWorkerError]) -> Iterator[type[MxWorkerError]]:
    for child in of.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from descendants(child)


def test_exit_codes_are_the_public_ones() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "RUNTIME": 1,
        "USAGE": 2,
        "APP_LOAD": 3,
        "BROKER": 4,
        "NEVER_READY": 5,
        "DRAIN_TIMEOUT": 6,
        "FORCED": 130,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MxWorkerError, ExitCode.RUNTIME),
        (ConfigError, ExitCode.USAGE),
        (AppLoadError, ExitCode.APP_LOAD),
        (BrokerError, ExitCode.BROKER),
        (ConnectionLost, ExitCode.BROKER),
        (CredentialsRefused, ExitCode.BROKER),
        (TlsRefused, ExitCode.BROKER),
        (TopologyRefused, ExitCode.BROKER),
        (InvariantError, ExitCode.RUNTIME),
    ],
)
def test_a_process_that_dies_of_an_error_ends_with_its_code(error: type[MxWorkerError], code: ExitCode) -> None:
    assert error.exit_code is code


def test_what_was_lost_or_lent_out_is_worth_another_attempt() -> None:
    transient = {error for error in descendants(MxWorkerError) if not error.permanent}
    of_the_broker = {ConnectionLost, ProtocolViolation, ChannelLost, PoolExhausted, BodyTooLarge}
    assert transient == of_the_broker | {PublishNacked, PublishOverflow, PublishUnconfirmed}


def test_what_ends_the_connection_is_caught_as_a_lost_connection() -> None:
    assert issubclass(ProtocolViolation, ConnectionLost)
    assert not issubclass(ChannelLost, ConnectionLost)
    assert not issubclass(CredentialsRefused, ConnectionLost)


def test_our_own_bugs_and_bad_bodies_are_not_blamed_on_the_broker() -> None:
    assert not issubclass(InvariantError, BrokerError)
    assert not issubclass(DecodeError, BrokerError)


def test_a_lost_channel_carries_the_reply_code_when_the_broker_gave_one() -> None:
    assert ChannelLost("404 NOT_FOUND", 404).code == 404
    assert ChannelLost("cancelled by the broker").code is None
    assert str(ChannelLost("404 NOT_FOUND", 404)) == "404 NOT_FOUND"


def test_the_tree_in_the_module_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^\s*[|\s]*\+-- (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [error.__name__ for error in descendants(MxWorkerError)]
