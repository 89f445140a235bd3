"""What a queue gives up because of time or length, and where that goes. Time is waited for, or moved."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import commands

from tests.broker.devbroker.conftest import Broker, wait_for
from tests.harness.wire import Channel, Closed, Content, Wire

TTL_S = 0.2
KINDS = {"classic": {"x-queue-type": "classic"}, "quorum": {"x-queue-type": "quorum", "x-delivery-limit": 100}}


@pytest.fixture(params=list(KINDS))
def made(request: pytest.FixtureRequest, channel: Channel, name: str) -> Any:
    """Declare the queue with arguments beside those of its kind; the dead letters are in `dead`."""
    names = []

    def make(which: str = name, **arguments: Any) -> str:
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        channel.declare(which, durable=True, arguments={**KINDS[request.param], **named})
        names.append(which)
        return which

    make.kind = request.param  # type: ignore[attr-defined]
    yield make
    with Wire(channel.wire.url) as wire:
        for each in names:
            wire.channel().call(commands.Queue.Delete(queue=each))


@pytest.fixture
def dead(channel: Channel, name: str) -> str:
    """A queue for dead letters."""
    channel.declare(f"{name}.dead", exclusive=True)
    return f"{name}.dead"


def publish(channel: Channel, queue: str, *bodies: bytes, **properties: Any) -> list[str]:
    """Publish with confirms, one after another; return what each got."""
    publisher = channel.wire.channel()
    publisher.confirm()
    got = []
    for number, body in enumerate(bodies, 1):
        publisher.publish(queue, body, **properties)
        got.append(publisher.confirmed(number)[-1][0])
    return got


def arrived(broker: Broker, channel: Channel, queue: str, count: int = 1) -> list[Content]:
    """Wait for messages in a queue, and take them."""
    wait_for(lambda: channel.counts(queue)[0] >= count)
    return [got for _ in range(count) if (got := channel.get(queue)) is not None]


def test_ttl_of_the_queue(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(message_ttl=int(TTL_S * 1000), dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(channel, queue, b"one", b"two", message_id="m")
    broker.pass_s(TTL_S)
    got = arrived(broker, channel, dead, 2)
    assert [each.body for each in got] == [b"one", b"two"]
    assert (got[0].properties.message_id, got[0].method.exchange, got[0].method.routing_key) == ("m", "", dead)
    assert not got[0].redelivered
    death = got[0].headers["x-death"][0]
    assert {name: death[name] for name in ("count", "reason", "queue", "exchange", "routing-keys")} == {
        "count": 1,
        "reason": "expired",
        "queue": queue,
        "exchange": "",
        "routing-keys": [queue],
    }
    assert set(death) == {"count", "reason", "queue", "exchange", "routing-keys", "time"}
    assert got[0].headers["x-first-death-queue"] == queue
    assert got[0].headers["x-first-death-reason"] == "expired"
    assert got[0].headers["x-first-death-exchange"] == ""


def test_ttl_of_a_message(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(channel, queue, b"short", expiration=str(int(TTL_S * 1000)))
    broker.pass_s(TTL_S)
    (got,) = arrived(broker, channel, dead)
    assert got.properties.expiration is None
    assert got.headers["x-death"][0]["original-expiration"] == str(int(TTL_S * 1000))


def test_the_shorter_ttl_counts(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(message_ttl=int(TTL_S * 1000), dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(channel, queue, b"x", expiration="100000")
    broker.pass_s(TTL_S)
    arrived(broker, channel, dead)


def test_a_message_expires_at_the_head_only(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(channel, queue, b"stays")
    publish(channel, queue, b"short", expiration="1")
    broker.pass_s(TTL_S)
    assert channel.counts(queue)[0] == 2
    assert channel.drain(queue) == [b"stays"]
    arrived(broker, channel, dead)


def test_ttl_0_is_delivered_at_once_or_never(broker: Broker, channel: Channel, made: Any) -> None:
    queue = made()
    publish(channel, queue, b"gone", expiration="0")
    wait_for(lambda: channel.counts(queue)[0] == 0)
    channel.consume(queue, no_ack=True)
    publish(channel, queue, b"taken", expiration="0")
    assert channel.delivery().body == b"taken"


def test_unacked_messages_do_not_expire(broker: Broker, channel: Channel, made: Any) -> None:
    queue = made(message_ttl=int(TTL_S * 1000))
    tag = channel.consume(queue)
    publish(channel, queue, b"held")
    got = channel.delivery()
    channel.call(commands.Basic.Cancel(tag))
    broker.pass_s(TTL_S * 2)
    channel.nack(got.tag)  # it goes back, and its time is over
    channel.sync()
    wait_for(lambda: channel.counts(queue)[0] == 0)


def test_rejected_goes_to_the_dead_letter_exchange(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    channel.bind(dead, "amq.direct", "key")
    queue = made(dead_letter_exchange="amq.direct")
    channel.bind(queue, "amq.direct", f"{queue}.key")
    channel.bind(dead, "amq.direct", f"{queue}.key")
    publish(channel, queue, b"no", headers={"mine": 1})
    got = channel.get(queue, no_ack=False)
    assert got is not None
    channel.bind(dead, "amq.direct", queue)  # without a key of its own the message keeps its routing key
    channel.nack(got.tag, requeue=False)
    (letter,) = arrived(broker, channel, dead)
    assert (letter.method.exchange, letter.method.routing_key) == ("amq.direct", queue)
    assert letter.headers["mine"] == 1
    assert letter.headers["x-death"][0]["reason"] == "rejected"


def test_deaths_are_counted_by_queue_and_reason(broker: Broker, channel: Channel, made: Any, name: str) -> None:
    queue = made(dead_letter_exchange="", dead_letter_routing_key=f"{name}.wait")
    made(f"{name}.wait", message_ttl=int(TTL_S * 1000), dead_letter_exchange="", dead_letter_routing_key=queue)
    publish(channel, queue, b"round and round")
    for _ in range(3):
        wait_for(lambda: channel.counts(queue)[0] == 1)
        got = channel.get(queue, no_ack=False)
        assert got is not None
        channel.nack(got.tag, requeue=False)
        channel.sync()
        wait_for(lambda: channel.counts(f"{name}.wait")[0] + channel.counts(queue)[0] == 1)
        broker.pass_s(TTL_S)
    (got,) = arrived(broker, channel, queue)
    deaths = {(death["queue"], death["reason"]): death["count"] for death in got.headers["x-death"]}
    assert deaths == {(queue, "rejected"): 3, (f"{name}.wait", "expired"): 3}
    assert [death["queue"] for death in got.headers["x-death"]] == [f"{name}.wait", queue]
    assert got.headers["x-first-death-reason"] == "rejected"


def test_a_cycle_without_rejects_ends(broker: Broker, channel: Channel, made: Any, name: str) -> None:
    queue = made(message_ttl=int(TTL_S * 1000), dead_letter_exchange="", dead_letter_routing_key=f"{name}.back")
    made(f"{name}.back", message_ttl=int(TTL_S * 1000), dead_letter_exchange="", dead_letter_routing_key=queue)
    publish(channel, queue, b"round")
    broker.pass_s(TTL_S * 2)

    def is_gone() -> bool:
        return channel.counts(queue)[0] + channel.counts(f"{name}.back")[0] == 0

    wait_for(lambda: all(is_gone() for _ in range(20)))  # not on its way from one to the other


def test_a_missing_dead_letter_exchange_loses_the_message(channel: Channel, name: str) -> None:
    channel.declare(name, exclusive=True, arguments={"x-dead-letter-exchange": "not-there"})
    publish(channel, name, b"gone")
    got = channel.get(name, no_ack=False)
    assert got is not None
    channel.nack(got.tag, requeue=False)
    channel.sync()
    assert channel.counts(name) == (0, 0)


def test_max_length_drops_the_oldest(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(max_length=2, dead_letter_exchange="", dead_letter_routing_key=dead)
    assert publish(channel, queue, b"1", b"2", b"3", b"4") == ["ack"] * 4
    assert [each.body for each in arrived(broker, channel, dead, 2)] == [b"1", b"2"]
    wait_for(lambda: channel.counts(queue)[0] == 2)
    got = channel.get(queue)
    assert got is not None
    assert got.body == b"3"


def test_the_reason_of_what_was_too_much(broker: Broker, channel: Channel, made: Any, dead: str) -> None:
    queue = made(max_length_bytes=10, dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(channel, queue, b"12345", b"12345", b"6")
    (got,) = arrived(broker, channel, dead)
    assert got.headers["x-death"][0]["reason"] == "maxlen"


def test_a_full_queue_refuses(channel: Channel, made: Any) -> None:
    queue = made(max_length=2, overflow="reject-publish")
    decided = publish(channel, queue, *[b"x"] * 6)
    most = 3 if made.kind == "quorum" else 2  # a quorum queue refuses when it is above its limit
    assert decided == ["ack"] * most + ["nack"] * (6 - most)
    assert channel.counts(queue)[0] == most
    channel.drain(queue)
    assert publish(channel, queue, b"x") == ["ack"]


def test_a_full_queue_refuses_and_dead_letters(broker: Broker, channel: Channel, name: str, dead: str) -> None:
    channel.declare(
        name,
        exclusive=True,
        arguments={
            "x-max-length": 1,
            "x-overflow": "reject-publish-dlx",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
        },
    )
    assert publish(channel, name, b"1", b"2") == ["ack", "nack"]
    (got,) = arrived(broker, channel, dead)
    assert (got.body, got.headers["x-death"][0]["reason"]) == (b"2", "maxlen")


def test_an_unused_queue_expires(broker: Broker, channel: Channel, name: str) -> None:
    for each in ("idle", "consumed"):
        channel.declare(f"{name}.{each}", arguments={"x-expires": 3000})
    channel.consume(f"{name}.consumed", consumer_tag="user")
    broker.pass_s(3.2)
    wait_for(lambda: _is_missing(channel, f"{name}.idle"))
    assert channel.counts(f"{name}.consumed") == (0, 1)
    channel.call(commands.Basic.Cancel("user"))
    broker.pass_s(3.2)
    wait_for(lambda: _is_missing(channel, f"{name}.consumed"))


def _is_missing(channel: Channel, queue: str) -> bool:
    """Look without using the queue, which would keep it: a bind to nothing fails either way."""
    try:
        channel.wire.channel().call(commands.Queue.Bind(queue=queue, exchange="amq.direct", routing_key="x"))
    except Closed as closed:
        return closed.code == 404
    return False
