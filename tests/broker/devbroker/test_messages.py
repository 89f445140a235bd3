"""The way of messages: delivery, settlement, order, limits of consumers, confirms, returns, transactions, replies."""

from __future__ import annotations

import struct
from itertools import islice
from typing import Any

import pytest
from pamqp import commands

from tests.broker.devbroker.conftest import Broker, wait_for
from tests.harness.wire import Channel, Closed, Content, Wire

QUORUM = {"x-queue-type": "quorum"}
LIMITED = {**QUORUM, "x-delivery-limit": 100}


def filled(channel: Channel, queue: str, count: int, **properties: Any) -> None:
    """Publish bodies b"0", b"1" ... and wait for their confirms."""
    with Wire(channel.wire.url) as other:
        publisher = other.channel()
        publisher.confirm()
        for number in range(count):
            publisher.publish(queue, str(number).encode(), **properties)
        publisher.confirmed(count)


@pytest.fixture(params=["classic", "quorum"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def durable(channel: Channel, name: str, kind: str) -> Any:
    """A durable queue of either kind, which keeps what is given back."""
    channel.declare(name, durable=True, arguments=LIMITED if kind == "quorum" else {})
    yield name
    with Wire(channel.wire.url) as wire:
        wire.channel().call(commands.Queue.Delete(queue=name))


def test_messages_arrive_in_order_with_all_they_had(channel: Channel, durable: str) -> None:
    headers = {"n": 5, "s": "text", "b": True, "t": {"in": [1, 2]}, "none": None}
    filled(
        channel, durable, 50, headers=headers, content_type="text/plain", priority=3, message_id="m", delivery_mode=2
    )
    channel.consume(durable)
    got = channel.deliveries(50)
    assert [each.body for each in got] == [str(number).encode() for number in range(50)]
    assert [each.tag for each in got] == list(range(1, 51))
    first = got[0]
    assert first.properties.content_type == "text/plain"
    assert (first.properties.priority, first.properties.message_id, first.properties.delivery_mode) == (3, "m", 2)
    assert {name: first.headers[name] for name in headers} == headers
    assert not first.redelivered


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 300_000])
def test_bodies_of_any_size(broker: Broker, name: str, size: int) -> None:
    with Wire(broker.url, frame_max=4096) as wire:
        channel = wire.channel()
        channel.declare(name, exclusive=True)
        channel.publish(name, b"x" * size)
        channel.consume(name, no_ack=True)
        assert channel.delivery().body == b"x" * size


def test_prefetch_of_a_consumer(channel: Channel, durable: str) -> None:
    filled(channel, durable, 10)
    channel.qos(3)
    channel.consume(durable)
    first = channel.deliveries(3)
    assert channel.is_quiet()
    channel.ack(first[1].tag)
    assert channel.delivery().body == b"3"
    assert channel.is_quiet()
    channel.ack(first[2].tag, multiple=True)
    assert [each.body for each in channel.deliveries(2)] == [b"4", b"5"]
    assert channel.is_quiet()


def test_prefetch_of_a_channel_counts_all_consumers(channel: Channel, name: str) -> None:
    for each in ("a", "b"):
        channel.declare(f"{name}.{each}", exclusive=True)
        filled(channel, f"{name}.{each}", 3)
    channel.qos(2, all_consumers=True)
    for each in ("a", "b"):
        channel.consume(f"{name}.{each}")
    first, second = channel.deliveries(2)
    assert channel.is_quiet()
    channel.ack(first.tag)
    channel.delivery()
    assert channel.is_quiet()
    assert second.tag == 2


def test_prefetch_holds_for_consumers_to_come(channel: Channel, queue: str) -> None:
    for _ in range(5):
        channel.publish(queue)
    channel.consume(queue, consumer_tag="all")
    channel.qos(1)
    assert len(channel.deliveries(5)) == 5


def test_a_consumer_without_acks_gets_all(channel: Channel, queue: str) -> None:
    channel.qos(1)
    channel.consume(queue, no_ack=True)
    for _ in range(5):
        channel.publish(queue)
    assert len(channel.deliveries(5)) == 5
    assert channel.counts(queue) == (0, 1)


def test_what_is_rejected_with_requeue_comes_back_to_its_place(channel: Channel, durable: str) -> None:
    filled(channel, durable, 6)
    channel.qos(3)
    tag = channel.consume(durable)
    got = channel.deliveries(3)
    channel.call(commands.Basic.Cancel(tag))
    channel.send(commands.Basic.Reject(got[0].tag, True))
    channel.nack(got[1].tag)
    channel.nack(got[2].tag)
    channel.sync()
    again = drained(channel, durable)
    assert [(each.body, each.redelivered) for each in again] == [
        (b"0", True),
        (b"1", True),
        (b"2", True),
        (b"3", False),
        (b"4", False),
        (b"5", False),
    ]


def drained(channel: Channel, queue: str) -> list[Content]:
    got = []
    while (each := channel.get(queue)) is not None:
        got.append(each)
    return got


def test_requeue_in_another_order(channel: Channel, durable: str, kind: str) -> None:
    filled(channel, durable, 4)
    channel.qos(3)
    tag = channel.consume(durable)
    got = channel.deliveries(3)
    channel.call(commands.Basic.Cancel(tag))
    for number in (1, 2, 0):
        channel.nack(got[number].tag)
    channel.sync()
    order = [b"1", b"2", b"0", b"3"] if kind == "quorum" else [b"0", b"1", b"2", b"3"]
    assert channel.drain(durable) == order


def test_what_a_closed_channel_held_comes_back(wire: Wire, channel: Channel, durable: str) -> None:
    filled(channel, durable, 3)
    holder = wire.channel()
    holder.consume(durable)
    holder.deliveries(3)
    holder.call(commands.Channel.Close(200, "", 0, 0))
    channel.consume(durable, no_ack=True)
    assert [(each.body, each.redelivered) for each in channel.deliveries(3)] == [
        (b"0", True),
        (b"1", True),
        (b"2", True),
    ]


def test_what_a_lost_connection_held_comes_back(broker: Broker, channel: Channel, durable: str) -> None:
    filled(channel, durable, 2)
    lost = Wire(broker.url)
    holder = lost.channel()
    holder.consume(durable)
    holder.deliveries(2)
    lost.kill()
    channel.consume(durable, no_ack=True)
    assert [each.redelivered for each in channel.deliveries(2)] == [True, True]


def test_quorum_queue_counts_deliveries(channel: Channel, name: str) -> None:
    channel.declare(name, durable=True, arguments=LIMITED)
    filled(channel, name, 1)
    counts = []
    for _ in range(3):
        got = channel.get(name, no_ack=False)
        assert got is not None
        counts.append(got.headers.get("x-delivery-count", 0))
        channel.nack(got.tag)
        channel.sync()
    assert counts == [0, 1, 2]
    channel.call(commands.Queue.Delete(queue=name))


def test_delivery_limit_dead_letters(channel: Channel, name: str) -> None:
    channel.declare(f"{name}.dead", exclusive=True)
    channel.declare(
        name,
        durable=True,
        arguments={
            **QUORUM,
            "x-delivery-limit": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{name}.dead",
        },
    )
    filled(channel, name, 1)
    channel.consume(name)
    for _ in range(3):
        channel.nack(channel.delivery().tag)
    channel.sync()
    assert channel.is_quiet()
    wait_for(lambda: channel.counts(f"{name}.dead")[0] == 1)
    dead = channel.get(f"{name}.dead")
    assert dead is not None
    assert dead.headers["x-death"][0]["reason"] == "delivery_limit"
    channel.call(commands.Queue.Delete(queue=name))


def test_ack_of_everything(channel: Channel, queue: str) -> None:
    for _ in range(3):
        channel.publish(queue)
    channel.consume(queue)
    channel.deliveries(3)
    channel.ack(0, multiple=True)
    channel.ack(0, multiple=True)  # nothing is left, and that is no error
    channel.sync()
    channel.call(commands.Basic.Recover(True))
    assert channel.is_quiet()


def test_recover_delivers_again(channel: Channel, queue: str) -> None:
    channel.publish(queue, b"one")
    channel.consume(queue)
    assert not channel.delivery().redelivered
    channel.send(commands.Basic.Recover(True))
    channel.expect(commands.Basic.RecoverOk)
    again = channel.delivery()
    assert (again.body, again.redelivered, again.tag) == (b"one", True, 2)
    channel.send(commands.Basic.RecoverAsync(True))
    assert channel.delivery().redelivered


def test_get_tells_how_many_are_left_and_holds(channel: Channel, queue: str) -> None:
    for _ in range(3):
        channel.publish(queue)
    got = channel.get(queue, no_ack=False)
    assert got is not None
    assert got.method.message_count == 2
    assert channel.counts(queue) == (2, 0)
    channel.nack(got.tag)
    channel.sync()
    assert channel.counts(queue) == (3, 0)


def test_cancelled_consumer_keeps_what_it_holds(channel: Channel, queue: str) -> None:
    channel.publish(queue)
    tag = channel.consume(queue)
    got = channel.delivery()
    channel.call(commands.Basic.Cancel(tag))
    channel.publish(queue)
    assert channel.is_quiet()
    channel.ack(got.tag)
    channel.sync()
    assert channel.counts(queue) == (1, 0)


def test_consumers_take_turns(channel: Channel, durable: str) -> None:
    tags = [channel.consume(durable) for _ in range(3)]
    filled(channel, durable, 6)
    got = [each.method.consumer_tag for each in channel.deliveries(6)]
    assert [got.count(tag) for tag in tags] == [2, 2, 2]


def test_consumer_of_higher_priority_is_served_first(channel: Channel, durable: str) -> None:
    channel.qos(2)
    channel.consume(durable, consumer_tag="low")
    channel.consume(durable, consumer_tag="high", arguments={"x-priority": 10})
    filled(channel, durable, 4)
    assert [each.method.consumer_tag for each in channel.deliveries(4)] == ["high", "high", "low", "low"]


def test_single_active_consumer(channel: Channel, name: str) -> None:
    channel.declare(name, exclusive=True, arguments={"x-single-active-consumer": True})
    first, second = channel.consume(name, consumer_tag="first"), channel.consume(name, consumer_tag="second")
    for _ in range(3):
        channel.publish(name)
    assert {each.method.consumer_tag for each in channel.deliveries(3)} == {first}
    channel.call(commands.Basic.Cancel(first))
    channel.publish(name)
    assert channel.delivery().method.consumer_tag == second


def test_cancel_notify(broker: Broker, channel: Channel, name: str) -> None:
    channel.declare(name)
    channel.consume(name, consumer_tag="told")
    with Wire(broker.url, capabilities=()) as other:
        untold = other.channel()
        untold.consume(name)
        other.channel().call(commands.Queue.Delete(queue=name))
        cancel = channel.expect(commands.Basic.Cancel)
        assert (cancel.consumer_tag, cancel.nowait) == ("told", True)
        assert untold.is_quiet()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_who_deletes_a_queue_gets_the_answer_before_the_cancel(channel: Channel, name: str, kind: str) -> None:
    channel.declare(name, durable=True, arguments={"x-queue-type": kind})
    channel.consume(name, consumer_tag="mine")
    channel.send(commands.Queue.Delete(queue=name))
    channel.expect(commands.Queue.DeleteOk)
    assert channel.expect(commands.Basic.Cancel).consumer_tag == "mine"


def test_held_deliveries_of_a_deleted_queue_are_settled(channel: Channel, name: str) -> None:
    channel.declare(name)
    channel.publish(name)
    channel.consume(name)
    got = channel.delivery()
    channel.call(commands.Queue.Delete(queue=name))
    channel.ack(got.tag)
    channel.sync()


def test_priority_queue(channel: Channel, name: str) -> None:
    channel.declare(name, exclusive=True, arguments={"x-max-priority": 5})
    for body, priority in ((b"none", None), (b"1", 1), (b"5", 5), (b"9", 9), (b"3", 3), (b"3b", 3)):
        channel.publish(name, body, priority=priority)
    assert channel.drain(name) == [b"5", b"9", b"3", b"3b", b"1", b"none"]


def test_confirms(channel: Channel, queue: str) -> None:
    channel.confirm()
    channel.confirm()  # once more is no error
    for _ in range(100):
        channel.publish(queue, delivery_mode=2)
    assert channel.confirmed(100) == [("ack", tag) for tag in range(1, 101)]


def test_return_comes_before_the_confirm(channel: Channel) -> None:
    channel.confirm()
    channel.publish("nobody", b"back", mandatory=True, message_id="m")
    returned, confirm = channel.read(), channel.read()
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("", "nobody")
    assert (returned.body, returned.properties.message_id) == (b"back", "m")
    assert isinstance(confirm, commands.Basic.Ack)
    channel.publish("nobody")
    assert channel.confirmed(2)[-1] == ("ack", 2)


def test_transaction_publishes_at_commit(wire: Wire, channel: Channel, queue: str) -> None:
    watcher = wire.channel()
    channel.call(commands.Tx.Select())
    for _ in range(3):
        channel.publish(queue)
    channel.counts(queue)
    assert watcher.counts(queue) == (0, 0)
    channel.call(commands.Tx.Rollback())
    assert watcher.counts(queue) == (0, 0)
    channel.publish(queue)
    channel.publish("nobody", mandatory=True)
    channel.send(commands.Tx.Commit())
    assert isinstance(channel.read().method, commands.Basic.Return)
    assert isinstance(channel.read(), commands.Tx.CommitOk)
    assert watcher.counts(queue) == (1, 0)


def test_transaction_settles_at_commit(wire: Wire, channel: Channel, queue: str) -> None:
    for _ in range(2):
        channel.publish(queue)
    worker = wire.channel()
    worker.call(commands.Tx.Select())
    worker.consume(queue)
    first, second = worker.deliveries(2)
    worker.ack(first.tag)
    worker.call(commands.Tx.Rollback())
    worker.ack(first.tag)
    worker.nack(second.tag)
    assert worker.is_quiet()
    worker.call(commands.Tx.Commit())
    assert worker.delivery().redelivered
    worker.call(commands.Channel.Close(200, "", 0, 0))
    assert channel.counts(queue) == (1, 0)


def test_direct_reply(wire: Wire, channel: Channel, queue: str) -> None:
    server = wire.channel()
    server.consume(queue, no_ack=True)
    channel.consume("amq.rabbitmq.reply-to", no_ack=True, consumer_tag="replies")
    channel.publish(queue, b"ask", reply_to="amq.rabbitmq.reply-to", correlation_id="c")
    asked = server.delivery()
    assert asked.properties.reply_to is not None
    assert asked.properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    assert passive(server, asked.properties.reply_to).consumer_count == 1
    server.publish(asked.properties.reply_to, b"answer", correlation_id="c", mandatory=True)
    answer = channel.delivery()
    assert (answer.body, answer.method.consumer_tag, answer.method.exchange) == (b"answer", "replies", "")
    with pytest.raises(Closed, match="406 PRECONDITION_FAILED - reply consumer already set"):
        channel.consume("amq.rabbitmq.reply-to", no_ack=True)
    with pytest.raises(Closed, match="404 NOT_FOUND"):
        passive(server, asked.properties.reply_to)


def passive(channel: Channel, queue: str) -> Any:
    """Declare a queue passively whose name pamqp would refuse."""
    name = queue.encode()
    declare = struct.pack(">IHB", 50 << 16 | 10, 0, len(name)) + name + b"\x01" + bytes(4)
    channel.wire.send_bytes(struct.pack(">BHI", 1, channel.number, len(declare)) + declare + b"\xce")
    return channel.answer("QueueDeclareOk")


def test_a_slow_reader_is_sent_more_later(broker: Broker, channel: Channel, name: str) -> None:
    channel.declare(name, auto_delete=True)
    with Wire(broker.url) as slow:
        reader = slow.channel()
        reader.consume(name, no_ack=True)
        for _ in range(60):
            channel.publish(name, b"x" * 262_144)
        channel.sync()
        assert sum(len(each.body) for each in islice(iter(reader.delivery, None), 60)) == 60 * 262_144
