"""What the reason of a closed channel says of its publishes. The texts are RabbitMQ's."""

from __future__ import annotations

import pytest

from mxworker.amqp.publishing.close_reason import is_refused_as_a_whole, refused_exchange, refused_publishes
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.amqp.publishing.routes import Route
from mxworker.errors import ChannelLost, ConnectionLost, MessageTooLarge, PublishNacked, Unroutable

MISSING = ChannelLost("the broker closed the channel: 404 NOT_FOUND - no exchange 'x' in vhost '/'", 404)
REFUSED = ChannelLost(
    "the broker closed the channel: 403 ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'me'", 403
)
TOPIC_REFUSED = ChannelLost(
    "the broker closed the channel: 403 ACCESS_REFUSED - access to topic 'k' in exchange 'x' in vhost '/' refused for "
    "user 'me'",
    403,
)
TOO_LARGE = ChannelLost(
    "the broker closed the channel: 406 PRECONDITION_FAILED - message size 11 is larger than configured max size 10",
    406,
)
OTHER = ChannelLost("the broker closed the channel: 406 PRECONDITION_FAILED - invalid message", 406)


def publishing(exchange: str, size_bytes: int = 1) -> Publishing:
    return Publishing(Route(exchange, "k", 0), b"id", b"", b"x" * size_bytes, 0.0)


@pytest.mark.parametrize(
    ("error", "verdict"), [(MISSING, Unroutable), (REFUSED, PublishNacked), (TOPIC_REFUSED, PublishNacked)]
)
def test_single_publish_to_the_named_exchange_is_certain(error: ChannelLost, verdict: type[Exception]) -> None:
    theirs, ours = publishing("y"), publishing("x")
    found, refusal = refused_publishes([theirs, ours], error, is_complete=True)
    assert found == [ours]
    assert type(refusal) is verdict


def test_of_several_to_the_named_exchange_none_is_certain() -> None:
    assert refused_publishes([publishing("x"), publishing("x")], MISSING, is_complete=True) == ([], None)


def test_nobody_is_certain_when_one_was_given_up_before() -> None:
    assert refused_publishes([publishing("x")], MISSING, is_complete=False) == ([], None)


@pytest.mark.parametrize("is_complete", [True, False])
def test_every_message_above_the_broker_s_limit_is_certain(is_complete: bool) -> None:
    small, large, larger = publishing("", 10), publishing("", 11), publishing("x", 12)
    found, refusal = refused_publishes([small, large, larger], TOO_LARGE, is_complete)
    assert found == [large, larger]
    assert type(refusal) is MessageTooLarge


@pytest.mark.parametrize("error", [OTHER, ConnectionLost("no exchange 'x' in vhost '/'")])
def test_reason_that_names_no_publish_is_certain_of_none(error: ChannelLost | ConnectionLost) -> None:
    assert refused_publishes([publishing("x")], error, is_complete=True) == ([], None)
    assert refused_exchange(error) is None


def test_only_a_refusal_of_the_whole_exchange_lasts() -> None:
    assert is_refused_as_a_whole(REFUSED)
    assert not is_refused_as_a_whole(TOPIC_REFUSED)
    assert not is_refused_as_a_whole(MISSING)
