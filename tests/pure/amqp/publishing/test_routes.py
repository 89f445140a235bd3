"""Routes: one for each exchange, routing key and mandatory, on the channel that keeps the order."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker.amqp.publishing.routes import _REMEMBERED, Routes
from mxworker.errors import EncodeError

REPLY = "amq.rabbitmq.reply-to.g1h2"


def test_one_route_is_one_object_and_names_say_where_it_leads() -> None:
    routes = Routes(2)
    assert routes.find("", "q", True) is routes.find("", "q", True)
    assert str(routes.find("", "q", True)) == "queue 'q'"
    assert str(routes.find("e", "k", True)) == "exchange 'e', routing key 'k'"


def test_an_exchange_and_key_keep_their_channel_whatever_else_is_said_or_forgotten() -> None:
    routes = Routes(7)
    first = routes.find("e", "k", True)
    assert routes.find("e", "k", False).channel == first.channel
    for number in range(_REMEMBERED):
        routes.find("", str(number), True)
    again = routes.find("e", "k", True)
    assert again is not first, "it was forgotten"
    assert again.channel == first.channel


def test_channels_share_the_routes() -> None:
    routes = Routes(4)
    assert {routes.find("", str(number), True).channel for number in range(1000)} == {0, 1, 2, 3}


def test_direct_reply_is_never_mandatory() -> None:
    routes = Routes(1)
    assert not routes.find("", REPLY, True).mandatory
    assert routes.find("e", REPLY, True).mandatory
    assert not routes.find("", "q", False).mandatory
    assert routes.find("", "q", True).mandatory


@pytest.mark.parametrize("name", [b"bytes", None, 1, [], "x" * 256, "\ud800"])
def test_name_that_amqp_cannot_send_is_refused(name: Any) -> None:
    routes = Routes(1)
    with pytest.raises(EncodeError, match="exchange"):
        routes.find(name, "k", True)
    with pytest.raises(EncodeError, match="routing_key"):
        routes.find("", name, True)


@pytest.mark.parametrize("mandatory", [1, 0, None, "no"])
def test_mandatory_is_true_or_false_and_nothing_else(mandatory: Any) -> None:
    routes = Routes(1)
    routes.find("", "q", True)
    routes.find("", "q", False)
    with pytest.raises(EncodeError, match="mandatory must be True or False"):
        routes.find("", "q", mandatory)
