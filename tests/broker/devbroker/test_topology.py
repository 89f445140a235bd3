"""Exchanges, queues and bindings: what each type routes, what goes with what, what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import commands

from tests.broker.devbroker.conftest import Broker, wait_for
from tests.harness.wire import Channel, Closed, Content, Wire


def queue_for(channel: Channel, exchange: str, *keys: str, **arguments: Any) -> str:
    """Declare a queue with bindings."""
    made = str(channel.declare("", exclusive=True).queue)
    for key in keys or ("",):
        channel.bind(made, exchange, key, **arguments)
    return made


def declare_exchange(channel: Channel, name: str, kind: str = "direct", **options: Any) -> str:
    channel.call(commands.Exchange.Declare(exchange=name, exchange_type=kind, **options))
    return name


def test_default_exchange_routes_to_the_queue_of_that_name(channel: Channel, queue: str) -> None:
    channel.publish(queue, b"one")
    got = channel.get(queue)
    assert got is not None
    assert (got.body, got.method.exchange, got.method.routing_key, got.redelivered) == (b"one", "", queue, False)


def test_direct_exchange_routes_by_the_equal_key(channel: Channel) -> None:
    queue = queue_for(channel, "amq.direct", "red", "blue")
    for key in ("red", "green", "blue"):
        channel.publish(key, key.encode(), exchange="amq.direct")
    assert channel.drain(queue) == [b"red", b"blue"]


def test_fanout_exchange_routes_to_all(channel: Channel) -> None:
    queues = [queue_for(channel, "amq.fanout"), queue_for(channel, "amq.fanout", "whatever")]
    channel.publish("key", b"all", exchange="amq.fanout")
    assert [channel.drain(queue) for queue in queues] == [[b"all"], [b"all"]]


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("a.*", {"a.b"}),
        ("a.#", {"a", "a.b", "a.b.c"}),
        ("#", {"", "a", "a.b", "a.b.c", "b.a", "..", "b"}),
        ("*", {"a", "b"}),
        ("#.b", {"a.b", "b"}),
        ("*.#.c", {"a.b.c"}),
        ("..", {".."}),
        ("*.*.*", {"a.b.c", ".."}),
    ],
)
def test_topic_exchange(channel: Channel, name: str, pattern: str, taken: set[str]) -> None:
    declare_exchange(channel, name, "topic", auto_delete=True)
    queue = queue_for(channel, name, pattern)
    for key in ("", "a", "a.b", "a.b.c", "b.a", "..", "b"):
        channel.publish(key, key.encode(), exchange=name)
    assert {body.decode() for body in channel.drain(queue)} == taken


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1, "b": "two", "c": 3}, True),
        ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1}, False),
        ({"a": 1}, {"a": 1}, True),
        ({"x-match": "any", "a": 1, "b": "two"}, {"b": "two"}, True),
        ({"x-match": "any", "a": 1}, {"a": 2}, False),
        ({"x-match": "any"}, {"a": 2}, False),
        ({"x-match": "all"}, {}, True),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "all", "a": None}, {"a": "anything"}, True),
        ({"x-match": "all", "a": None}, {}, False),
        ({"x-match": "all", "a": True}, {"a": 1}, False),
    ],
)
def test_headers_exchange(channel: Channel, arguments: dict[str, Any], headers: dict[str, Any], matches: bool) -> None:
    queue = queue_for(channel, "amq.headers", **arguments)
    channel.publish("", b"it", exchange="amq.headers", headers=headers)
    assert channel.drain(queue) == ([b"it"] if matches else [])


def test_a_message_reaches_a_queue_once_for_several_bindings(channel: Channel, name: str) -> None:
    declare_exchange(channel, name, "topic", auto_delete=True)
    queue = queue_for(channel, name, "a.*", "*.b", "#")
    channel.publish("a.b", b"once", exchange=name)
    assert channel.drain(queue) == [b"once"]


def test_exchange_bound_to_exchange(channel: Channel, name: str) -> None:
    source, target = declare_exchange(channel, f"{name}.s", "topic"), declare_exchange(channel, f"{name}.t", "fanout")
    channel.call(commands.Exchange.Bind(destination=target, source=source, routing_key="a.#"))
    channel.call(commands.Exchange.Bind(destination=source, source=target, routing_key="b"))  # a circle is no trouble
    queue = queue_for(channel, target)
    channel.publish("a.b", b"yes", exchange=source)
    channel.publish("b", b"no", exchange=source)
    assert channel.drain(queue) == [b"yes"]
    channel.call(commands.Exchange.Unbind(destination=target, source=source, routing_key="a.#"))
    channel.publish("a.b", b"no more", exchange=source)
    assert channel.drain(queue) == []
    for each in (source, target):
        channel.call(commands.Exchange.Delete(exchange=each))


def test_alternate_exchange_gets_what_is_not_routed(channel: Channel, name: str) -> None:
    other = declare_exchange(channel, f"{name}.ae", "fanout", auto_delete=True)
    declare_exchange(channel, name, arguments={"alternate-exchange": other})
    bound, rest = queue_for(channel, name, "known"), queue_for(channel, other)
    channel.publish("known", b"known", exchange=name)
    channel.publish("unknown", b"unknown", exchange=name, mandatory=True)
    assert (channel.drain(bound), channel.drain(rest)) == ([b"known"], [b"unknown"])
    channel.call(commands.Exchange.Delete(exchange=name))


def test_unroutable_through_the_alternate_exchange_too_is_returned(channel: Channel, name: str) -> None:
    other = declare_exchange(channel, f"{name}.ae", "direct")
    declare_exchange(channel, name, arguments={"alternate-exchange": other})
    channel.publish("unknown", exchange=name, mandatory=True)
    assert isinstance(channel.read().method, commands.Basic.Return)
    for each in (name, other):
        channel.call(commands.Exchange.Delete(exchange=each))


def test_cc_and_bcc_are_routing_keys(channel: Channel, name: str) -> None:
    for each in ("to", "cc", "bcc"):
        channel.declare(f"{name}.{each}", exclusive=True)
    channel.publish(f"{name}.to", headers={"CC": [f"{name}.cc"], "BCC": [f"{name}.bcc"], "other": "x"})
    for each in ("to", "cc", "bcc"):
        got = channel.get(f"{name}.{each}")
        assert got is not None
        assert got.headers == {"CC": [f"{name}.cc"], "other": "x"}
        assert got.method.routing_key == f"{name}.to"


def test_auto_delete_exchange_goes_with_its_last_binding(channel: Channel, name: str) -> None:
    declare_exchange(channel, name, auto_delete=True)
    queue = queue_for(channel, name, "a", "b")
    channel.call(commands.Queue.Unbind(queue=queue, exchange=name, routing_key="a"))
    channel.call(commands.Exchange.Declare(exchange=name, passive=True))
    channel.call(commands.Queue.Delete(queue=queue))
    with pytest.raises(Closed, match="404"):
        channel.call(commands.Exchange.Declare(exchange=name, passive=True))


def test_server_names_a_queue(channel: Channel) -> None:
    made = channel.declare("", exclusive=True).queue
    assert made.startswith("amq.gen-")
    channel.publish("", b"last declared queue is not the default key")
    channel.bind("", "amq.direct", made)  # the queue declared last
    channel.publish(made, b"bound", exchange="amq.direct")
    assert channel.drain(made) == [b"bound"]
    channel.declare(made, passive=True)
    with pytest.raises(Closed, match=f"403 ACCESS_REFUSED - queue name '{made}' contains reserved prefix"):
        channel.declare(made, exclusive=True)


def test_auto_delete_queue_goes_with_its_last_consumer(wire: Wire, channel: Channel, name: str) -> None:
    channel.declare(name, auto_delete=True)
    channel.get(name)
    first, second = channel.consume(name), channel.consume(name)
    channel.call(commands.Basic.Cancel(first))
    assert channel.counts(name) == (0, 1)
    channel.call(commands.Basic.Cancel(second))
    with pytest.raises(Closed, match="404"):
        channel.counts(name)


def test_exclusive_queue_is_locked_for_others_and_goes_with_its_connection(broker: Broker, name: str) -> None:
    with Wire(broker.url) as owner, Wire(broker.url) as other:
        owner.channel().declare(name, exclusive=True)
        for method in (
            commands.Queue.Declare(queue=name, passive=True),
            commands.Queue.Delete(queue=name),
            commands.Queue.Purge(queue=name),
            commands.Basic.Consume(queue=name),
            commands.Basic.Get(queue=name),
            commands.Queue.Bind(queue=name, exchange="amq.direct"),
            commands.Queue.Declare(queue=name, exclusive=True),
            commands.Queue.Declare(queue=name),
        ):
            with pytest.raises(Closed) as closed:
                other.channel().call(method)
            assert closed.value.code == 405
            assert closed.value.text == (
                f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be "
                "originally declared on another connection or the exclusive property value does not match that of the "
                "original declaration."
            )
        owner.close()
        wait_for(lambda: _is_missing(other, name))


def _is_missing(wire: Wire, queue: str) -> bool:
    try:
        wire.channel().counts(queue)
    except Closed as closed:
        return closed.code == 404
    return False


def test_purge_and_delete_tell_how_many(channel: Channel, name: str) -> None:
    channel.declare(name)
    channel.confirm()
    for _ in range(3):
        channel.publish(name)
    channel.confirmed(3)
    assert channel.counts(name) == (3, 0)
    assert channel.call(commands.Queue.Purge(queue=name)).message_count == 3
    channel.publish(name)
    channel.confirmed(4)
    assert channel.call(commands.Queue.Delete(queue=name)).message_count == 1
    assert channel.call(commands.Queue.Delete(queue=name)).message_count == 0


def test_what_is_there_already_may_be_declared_again(channel: Channel, name: str) -> None:
    for _ in range(2):
        channel.declare(name, exclusive=True, arguments={"x-max-length": 5, "x-unknown": 1})
        declare_exchange(channel, f"{name}.x", "topic", auto_delete=True)
        declare_exchange(channel, "amq.direct", durable=True)
        channel.bind(name, f"{name}.x", "a")
    channel.publish("a", b"one binding", exchange=f"{name}.x")
    assert channel.drain(name) == [b"one binding"]


def test_nowait_has_no_answer(channel: Channel, name: str) -> None:
    channel.send(commands.Queue.Declare(queue=name, exclusive=True, nowait=True))
    channel.send(commands.Queue.Bind(queue=name, exchange="amq.direct", routing_key=name, nowait=True))
    channel.send(commands.Exchange.Declare(exchange=f"{name}.x", auto_delete=True, nowait=True))
    channel.send(commands.Basic.Consume(queue=name, consumer_tag="t", nowait=True))
    channel.send(commands.Basic.Cancel("t", nowait=True))
    channel.send(commands.Queue.Purge(queue=name, nowait=True))
    channel.send(commands.Exchange.Delete(exchange=f"{name}.x", nowait=True))
    channel.send(commands.Confirm.Select(nowait=True))
    channel.send(commands.Queue.Delete(queue=name, nowait=True))
    assert channel.is_quiet()


def test_names_of_other_alphabets(channel: Channel, name: str) -> None:
    channel.confirm()
    channel.publish(f"ключ-{name}", exchange="amq.direct", mandatory=True)
    returned = channel.read()
    assert isinstance(returned, Content)
    assert returned.method.routing_key == f"ключ-{name}"
