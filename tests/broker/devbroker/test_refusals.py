"""What a broker refuses: the code, what is closed by it, the words, and the method that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pamqp import commands
from pamqp import frame as frames
from pamqp.base import Frame
from pamqp.header import ContentHeader

from tests.broker.devbroker.conftest import Broker
from tests.harness.wire import Channel, Closed, Wire

Declare, Bind, Exchange = commands.Queue.Declare, commands.Queue.Bind, commands.Exchange

# {q} is a queue that is there, classic and exclusive; {n} a name of which nothing is there.
OF_CHANNEL: dict[str, tuple[Callable[[str, str], Frame], str]] = {
    "passive queue": (lambda q, n: Declare(queue=n, passive=True), "404 NOT_FOUND - no queue '{n}' in vhost '/'"),
    "passive exchange": (
        lambda q, n: Exchange.Declare(exchange=n, passive=True),
        "404 NOT_FOUND - no exchange '{n}' in vhost '/'",
    ),
    "consume": (lambda q, n: commands.Basic.Consume(queue=n), "404 NOT_FOUND - no queue '{n}' in vhost '/'"),
    "get": (lambda q, n: commands.Basic.Get(queue=n), "404 NOT_FOUND - no queue '{n}' in vhost '/'"),
    "purge": (lambda q, n: commands.Queue.Purge(queue=n), "404 NOT_FOUND - no queue '{n}' in vhost '/'"),
    "bind to no exchange": (
        lambda q, n: Bind(queue=q, exchange=n),
        "404 NOT_FOUND - no exchange '{n}' in vhost '/'",
    ),
    "bind no queue": (
        lambda q, n: Bind(queue=n, exchange="amq.direct"),
        "404 NOT_FOUND - no queue '{n}' in vhost '/'",
    ),
    "bind to the default exchange": (
        lambda q, n: Bind(queue=q, exchange="", routing_key="x"),
        "403 ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "no queue declared": (
        lambda q, n: Bind(queue="", exchange="amq.direct"),
        "404 NOT_FOUND - no previously declared queue",
    ),
    "reserved queue name": (
        lambda q, n: Declare(queue="amq.mine"),
        "403 ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "reserved exchange name": (
        lambda q, n: Exchange.Declare(exchange="amq.mine"),
        "403 ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "declare the default exchange": (
        lambda q, n: Exchange.Declare(exchange=""),
        "403 ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "look at the default exchange": (
        lambda q, n: Exchange.Declare(exchange="", passive=True),
        "403 ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "delete a predeclared exchange": (
        lambda q, n: Exchange.Delete(exchange="amq.direct"),
        "403 ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    ),
    "other durability": (
        lambda q, n: Exchange.Declare(exchange="amq.topic", exchange_type="topic"),
        "406 PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.topic' in vhost '/': received 'false' "
        "but current is 'true'",
    ),
    "other auto-delete": (
        lambda q, n: Declare(queue=q, exclusive=True, auto_delete=True),
        "406 PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '{q}' in vhost '/': received 'true' but "
        "current is 'false'",
    ),
    "other exclusiveness": (
        lambda q, n: Declare(queue=q),
        "405 RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the original "
        "declaration.",
    ),
    "an argument more": (
        lambda q, n: Declare(queue=q, exclusive=True, arguments={"x-message-ttl": 1000}),
        "406 PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{q}' in vhost '/': received the value "
        "'1000' of type 'short' but current is none",
    ),
    "another type of exchange": (
        lambda q, n: Exchange.Declare(exchange="amq.topic", exchange_type="direct", durable=True),
        "406 PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': received 'direct' "
        "but current is 'topic'",
    ),
    "negative ttl": (
        lambda q, n: Declare(queue=n, arguments={"x-message-ttl": -1}),
        "406 PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{n}' in vhost '/': {{value_negative,-1}}",
    ),
    "ttl as text": (
        lambda q, n: Declare(queue=n, arguments={"x-message-ttl": "1"}),
        "406 PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{n}' in vhost '/': "
        '"expected integer, got longstr"',
    ),
    "huge ttl": (
        lambda q, n: Declare(queue=n, arguments={"x-message-ttl": 2**40}),
        "406 PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{n}' in vhost '/': "
        "{{value_too_large,1099511627776}}",
    ),
    "expires 0": (
        lambda q, n: Declare(queue=n, arguments={"x-expires": 0}),
        "406 PRECONDITION_FAILED - invalid arg 'x-expires' for queue '{n}' in vhost '/': {{value_zero,0}}",
    ),
    "priority above the maximum": (
        lambda q, n: Declare(queue=n, arguments={"x-max-priority": 256}),
        "406 PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '{n}' in vhost '/': "
        "{{max_value_exceeded,256}}",
    ),
    "unknown overflow": (
        lambda q, n: Declare(queue=n, arguments={"x-overflow": "spill"}),
        "406 PRECONDITION_FAILED - invalid arg 'x-overflow' for queue '{n}' in vhost '/': invalid_overflow",
    ),
    "unknown type of queue": (
        lambda q, n: Declare(queue=n, arguments={"x-queue-type": "tape"}),
        "406 PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue '{n}' in vhost '/': "
        "\"unsupported queue type 'tape'\"",
    ),
    "dead-letter exchange as a number": (
        lambda q, n: Declare(queue=n, arguments={"x-dead-letter-exchange": 1}),
        "406 PRECONDITION_FAILED - invalid type 'byte' for arg 'x-dead-letter-exchange' in queue '{n}' in vhost '/'",
    ),
    "alternate exchange as a number": (
        lambda q, n: Exchange.Declare(exchange=n, arguments={"alternate-exchange": 1}),
        "406 PRECONDITION_FAILED - invalid type 'byte' for arg 'alternate-exchange' in exchange '{n}' in vhost '/'",
    ),
    "dead-letter key alone": (
        lambda q, n: Declare(queue=n, arguments={"x-dead-letter-routing-key": "k"}),
        "406 PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue '{n}' in vhost '/': "
        "routing_key_but_no_dlx_defined",
    ),
    "quorum with priorities": (
        lambda q, n: Declare(queue=n, durable=True, arguments={"x-queue-type": "quorum", "x-max-priority": 5}),
        "406 PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '{n}' in vhost '/' of queue type "
        "rabbit_quorum_queue",
    ),
    "classic with a delivery limit": (
        lambda q, n: Declare(queue=n, arguments={"x-delivery-limit": 5}),
        "406 PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue '{n}' in vhost '/' of queue type "
        "rabbit_classic_queue",
    ),
    "quorum that is transient": (
        lambda q, n: Declare(queue=n, arguments={"x-queue-type": "quorum"}),
        "406 PRECONDITION_FAILED - invalid property 'non-durable' for queue '{n}' in vhost '/'",
    ),
    "quorum that is exclusive": (
        lambda q, n: Declare(queue=n, durable=True, exclusive=True, arguments={"x-queue-type": "quorum"}),
        "406 PRECONDITION_FAILED - invalid property 'exclusive-owner' for queue '{n}' in vhost '/'",
    ),
    "unknown tag": (
        lambda q, n: commands.Basic.Ack(99),
        "406 PRECONDITION_FAILED - unknown delivery tag 99",
    ),
    "unknown tags": (
        lambda q, n: commands.Basic.Ack(99, True),
        "406 PRECONDITION_FAILED - unknown delivery tag 99",
    ),
    "bad x-match": (
        lambda q, n: Bind(queue=q, exchange="amq.headers", arguments={"x-match": "some"}),
        '406 PRECONDITION_FAILED - Invalid x-match field value <<"some">>; expected all, any, all-with-x, or '
        "any-with-x",
    ),
    "x-match as a number": (
        lambda q, n: Bind(queue=q, exchange="amq.headers", arguments={"x-match": 1}),
        "406 PRECONDITION_FAILED - Invalid x-match field type byte (value 1); expected longstr",
    ),
    "consumer priority as text": (
        lambda q, n: commands.Basic.Consume(queue=q, arguments={"x-priority": "high"}),
        "406 PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{q}' in vhost '/': "
        '"expected integer, got longstr"',
    ),
    "commit without a transaction": (
        lambda q, n: commands.Tx.Commit(),
        "406 PRECONDITION_FAILED - channel is not transactional",
    ),
    "direct replies with acks": (
        lambda q, n: commands.Basic.Consume(queue="amq.rabbitmq.reply-to"),
        "406 PRECONDITION_FAILED - reply consumer cannot acknowledge",
    ),
}
OF_CONNECTION: dict[str, tuple[Callable[[str, str], Frame], str]] = {
    "an answer": (lambda q, n: commands.Basic.ConsumeOk("x"), "503 COMMAND_INVALID - unimplemented method"),
    "prefetch size": (
        lambda q, n: commands.Basic.Qos(prefetch_size=10),
        "540 NOT_IMPLEMENTED - prefetch_size!=0 (10)",
    ),
    "flow": (lambda q, n: commands.Channel.Flow(False), "540 NOT_IMPLEMENTED - active=false"),
    "recover without requeue": (
        lambda q, n: commands.Basic.Recover(False),
        "540 NOT_IMPLEMENTED - requeue=false",
    ),
    "channel opened twice": (
        lambda q, n: commands.Channel.Open(),
        "504 CHANNEL_ERROR - second 'channel.open' seen",
    ),
}


def refusal(channel: Channel, method: Frame) -> Closed:
    channel.send(method)
    with pytest.raises(Closed) as closed:
        channel.sync()
    assert closed.value.method == (method.index >> 16, method.index & 0xFFFF)
    return closed.value


@pytest.mark.parametrize("case", OF_CHANNEL)
def test_it_closes_the_channel(wire: Wire, queue: str, name: str, case: str) -> None:
    make, said = OF_CHANNEL[case]
    closed = refusal(wire.channel(), make(queue, f"{name}.none"))
    assert str(closed) == said.format(q=queue, n=f"{name}.none")
    assert not closed.of_connection
    wire.channel().counts(queue)  # others go on


@pytest.mark.parametrize("case", OF_CONNECTION)
def test_it_closes_the_connection(wire: Wire, name: str, case: str) -> None:
    make, said = OF_CONNECTION[case]
    closed = refusal(wire.channel(), make("", name))
    assert str(closed) == said
    assert closed.of_connection
    assert wire.at_end()


def test_an_unknown_type_of_exchange(wire: Wire, name: str) -> None:
    closed = refusal(wire.channel(), Exchange.Declare(exchange=name, exchange_type="carrier-pigeon"))
    assert closed.text.endswith("unknown exchange type 'carrier-pigeon'")
    assert closed.code in (503, 406)  # 406 since RabbitMQ 4


def test_delete_if_used_and_if_not_empty(wire: Wire, channel: Channel, queue: str, name: str) -> None:
    channel.publish(queue)
    channel.sync()
    assert str(refusal(wire.channel(), commands.Queue.Delete(queue=queue, if_empty=True))) == (
        f"406 PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"
    )
    channel.consume(queue, no_ack=True)
    assert str(refusal(wire.channel(), commands.Queue.Delete(queue=queue, if_unused=True))) == (
        f"406 PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"
    )
    channel.call(Exchange.Declare(exchange=name, auto_delete=True))
    channel.bind(queue, name)
    assert str(refusal(wire.channel(), Exchange.Delete(exchange=name, if_unused=True))) == (
        f"406 PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"
    )


def test_exclusive_consumers(wire: Wire, channel: Channel, queue: str) -> None:
    channel.consume(queue, exclusive=True)
    said = f"403 ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    assert str(refusal(wire.channel(), commands.Basic.Consume(queue=queue))) == said
    assert str(refusal(wire.channel(), commands.Basic.Consume(queue=queue, exclusive=True))) == said


def test_a_consumer_tag_is_used_once(channel: Channel, queue: str) -> None:
    channel.consume(queue, consumer_tag="mine")
    closed = refusal(channel, commands.Basic.Consume(queue=queue, consumer_tag="mine"))
    assert (str(closed), closed.of_connection) == ("530 NOT_ALLOWED - attempt to reuse consumer tag 'mine'", True)


@pytest.mark.parametrize(
    ("publish", "said"),
    [
        ({"exchange": "missing"}, "404 NOT_FOUND - no exchange 'missing' in vhost '/'"),
        (
            {"exchange": "amq.rabbitmq.trace"},
            "403 ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
        ),
        ({"immediate": True}, "540 NOT_IMPLEMENTED - immediate=true"),
        (
            {"user_id": "somebody"},
            "406 PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'guest'",
        ),
        ({"expiration": "soon"}, "406 PRECONDITION_FAILED - invalid expiration 'soon': no_integer"),
        (
            {"expiration": "10s"},
            "406 PRECONDITION_FAILED - invalid expiration '10s': {leftover_string,\"s\"}",
        ),
        ({"expiration": "-1"}, "406 PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}"),
        (
            {"headers": {"CC": "text"}},
            '406 PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}',
        ),
        ({"reply_to": "amq.rabbitmq.reply-to"}, "406 PRECONDITION_FAILED - fast reply consumer does not exist"),
    ],
)
def test_publishes(channel: Channel, publish: dict[str, Any], said: str) -> None:
    channel.publish("key", **publish)
    with pytest.raises(Closed) as closed:
        channel.sync()
    assert str(closed.value) == said
    assert closed.value.method == (60, 40)


@pytest.fixture
def quorum(channel: Channel, name: str) -> Iterator[str]:
    """A quorum queue with a single active consumer."""
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    channel.declare(f"{name}.quorum", durable=True, arguments=arguments)
    yield f"{name}.quorum"
    with Wire(channel.wire.url) as wire:
        wire.channel().call(commands.Queue.Delete(queue=f"{name}.quorum"))


@pytest.mark.parametrize("flag", ["if_unused", "if_empty"])
def test_quorum_queues_are_deleted_without_conditions(broker: Broker, quorum: str, flag: str) -> None:
    with Wire(broker.url) as wire:
        closed = refusal(wire.channel(), commands.Queue.Delete(queue=quorum, **{flag: True}))
    assert closed.of_connection
    assert str(closed) == (
        f"540 NOT_IMPLEMENTED - cannot delete queue '{quorum}' in vhost '/'. queue.delete operations with "
        f"{flag.replace('_', '-')} flag set are not supported by quorum queues"
    )


def test_a_quorum_queue_with_a_single_active_consumer_has_no_get(wire: Wire, quorum: str) -> None:
    assert str(refusal(wire.channel(), commands.Basic.Get(queue=quorum))) == (
        f"405 RESOURCE_LOCKED - cannot obtain access to locked queue '{quorum}' in vhost '/'. basic.get operations are "
        "not supported by quorum queues with single active consumer"
    )


def test_quorum_queues_have_no_prefetch_of_a_channel(broker: Broker, quorum: str) -> None:
    with Wire(broker.url) as wire:
        channel = wire.channel()
        channel.qos(5, all_consumers=True)
        closed = refusal(channel, commands.Basic.Consume(queue=quorum))
    assert str(closed) == f"540 NOT_IMPLEMENTED - queue '{quorum}' in vhost '/' does not support global qos"


def test_a_single_active_consumer_is_not_exclusive(wire: Wire, channel: Channel, name: str) -> None:
    channel.declare(name, exclusive=True, arguments={"x-single-active-consumer": True})
    closed = refusal(wire.channel(), commands.Basic.Consume(queue=name, exclusive=True))
    assert str(closed) == f"403 ACCESS_REFUSED - queue '{name}' in vhost '/' in exclusive use"


def test_confirms_and_transactions_exclude_each_other(wire: Wire) -> None:
    confirming, transactional = wire.channel(), wire.channel()
    confirming.confirm()
    transactional.call(commands.Tx.Select())
    assert str(refusal(confirming, commands.Tx.Select())) == (
        "406 PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    )
    assert str(refusal(transactional, commands.Confirm.Select())) == (
        "406 PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    )


def test_a_settled_delivery_is_not_settled_again(channel: Channel, queue: str) -> None:
    for _ in range(2):
        channel.publish(queue)
    channel.consume(queue)
    first, second = channel.deliveries(2)
    channel.ack(second.tag, multiple=True)
    channel.nack(first.tag)
    with pytest.raises(Closed, match="406 PRECONDITION_FAILED - unknown delivery tag 1"):
        channel.sync()


def test_a_broken_channel_is_opened_again(wire: Wire, channel: Channel, queue: str) -> None:
    refusal(channel, commands.Queue.Purge(queue="missing"))
    channel.call(commands.Channel.Open())
    channel.counts(queue)


def test_an_unopened_channel(wire: Wire) -> None:
    wire.send(commands.Queue.Declare(queue="x", passive=True), 7)
    with pytest.raises(Closed) as closed:
        wire.read(7)
    assert str(closed.value) == "504 CHANNEL_ERROR - expected 'channel.open'"


def test_too_large_a_message(broker: Broker, channel: Channel) -> None:
    if not broker.is_embedded:
        pytest.skip("needs 128 MiB to be sent")
    size = 128 * 1024 * 1024 + 1
    channel.send(commands.Basic.Publish(routing_key="x"))
    channel.wire.send_bytes(frames.marshal(ContentHeader(body_size=size), channel.number))
    with pytest.raises(Closed) as closed:
        channel.read()
    assert str(closed.value) == (
        f"406 PRECONDITION_FAILED - message size {size} is larger than configured max size {size - 1}"
    )
