"""Connections: the handshake, frames that break the rules, heartbeats, blocking, and how it all ends."""

from __future__ import annotations

import struct

import pytest
from pamqp import commands
from pamqp import frame as frames

from tests.broker.devbroker.conftest import Broker, wait_for
from tests.harness.wire import Channel, Closed, Wire

SLOW = pytest.mark.slow_on_rabbitmq
PROTOCOL = b"AMQP\x00\x00\x09\x01"


def frame(kind: int, channel: int, payload: bytes, end: int = 0xCE) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes((end,))


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x08\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_another_protocol_is_told_the_right_one(broker: Broker, greeting: bytes) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(greeting)
    assert wire.receive(4) == b"AMQP"  # RabbitMQ 4 names AMQP 1.0
    assert wire.at_end()


def test_a_wrong_password(broker: Broker) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(PROTOCOL)
    start = wire.expect(0, commands.Connection.Start)
    assert "PLAIN" in start.mechanisms.split()
    wire.send(wire.start_ok(password="wrong"))
    with pytest.raises(Closed) as closed:
        wire.read(0)
    assert str(closed.value) == (
        "403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker "
        "logfile."
    )


@SLOW
def test_a_wrong_password_of_an_old_client(broker: Broker) -> None:
    wire = Wire(broker.url, opened=False, capabilities=())
    wire.send_bytes(PROTOCOL)
    wire.expect(0, commands.Connection.Start)
    wire.send(wire.start_ok(password="wrong"))
    with pytest.raises(ConnectionError):
        wire.read(0)


@SLOW
def test_an_unknown_mechanism(broker: Broker) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(PROTOCOL)
    wire.expect(0, commands.Connection.Start)
    wire.send(wire.start_ok(mechanism="CHARM"))
    assert wire.at_end()


@SLOW
@pytest.mark.parametrize(("channel_max", "frame_max"), [(2047, 100), (2047, 200_000), (3000, 131_072)])
def test_tuning_beyond_the_bounds_ends_without_a_word(broker: Broker, channel_max: int, frame_max: int) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(PROTOCOL)
    wire.expect(0, commands.Connection.Start)
    wire.send(wire.start_ok())
    wire.expect(0, commands.Connection.Tune)
    wire.send(commands.Connection.TuneOk(channel_max, frame_max, 0))
    assert wire.at_end()


def test_server_says_what_it_is(broker: Broker, wire: Wire) -> None:
    properties = wire.server_properties
    wanted = {
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    }
    capabilities = properties["capabilities"]
    assert {name for name, has in capabilities.items() if has} == wanted
    if broker.is_embedded:
        assert properties["product"] == "mxworker embedded broker"
        assert "lost" in properties["information"]


def test_channels_above_the_maximum(broker: Broker) -> None:
    with Wire(broker.url, channel_max=2) as wire:
        wire.channel(), wire.channel()
        with pytest.raises(Closed) as closed:
            wire.channel()
        assert (closed.value.code, closed.value.of_connection) == (530, True)
        assert "number of channels opened (2) has reached the negotiated channel_max (2)" in closed.value.text


def test_a_channel_may_have_any_number(wire: Wire) -> None:
    wire.send(commands.Channel.Open(), 65_535)
    wire.expect(65_535, commands.Channel.OpenOk)


PUBLISH = frame(1, 1, struct.pack(">IHBB", 60 << 16 | 40, 0, 0, 1) + b"x" + b"\x00")
HEADER = frame(2, 1, struct.pack(">HHQH", 60, 0, 5, 0))
NO_TABLE = bytes(4)
NOT_UTF_8 = "FRAME_ERROR - Malformed UTF-8 in shortstr"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            frame(1, 1, b"12345678", end=0),
            '501 FRAME_ERROR - type 1, all octets = <<"12345678">>: {invalid_frame_end_marker,0}',
        ),
        (
            struct.pack(">BHI", 1, 1, 200_000),
            "501 FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,200000,131064}",
        ),
        (frame(2, 0, b"xxxxxxxx"), '501 FRAME_ERROR - type 2, all octets = <<"xxxxxxxx">>: unknown_frame'),
        (frame(3, 0, b"xxxxxxxx"), '505 UNEXPECTED_FRAME - type 3, all octets = <<"xxxxxxxx">>'),
        (HEADER, "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead"),
        (frame(3, 1, b"body"), "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead"),
        (
            PUBLISH + PUBLISH,
            "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        ),
        (
            PUBLISH + frame(3, 1, b"body"),
            "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        ),
        (
            PUBLISH + HEADER + HEADER,
            "505 UNEXPECTED_FRAME - expected content body, got non content body frame instead",
        ),
        (
            PUBLISH + frame(2, 1, struct.pack(">HHQH", 50, 0, 5, 0)),
            "505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
        ),
        (
            PUBLISH + frame(2, 1, struct.pack(">HHQH", 60, 1, 5, 0)),  # a weight
            "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        ),
        (frame(1, 1, struct.pack(">HHH", 50, 10, 0) + b"\x01\xff\x00" + NO_TABLE), f"501 {NOT_UTF_8}"),
    ],
)
def test_a_broken_rule_closes_the_connection(wire: Wire, channel: Channel, sent: bytes, said: str) -> None:
    wire.send_bytes(sent)
    with pytest.raises(Closed) as closed:
        channel.read()
    assert closed.value.of_connection
    assert str(closed.value) == said


@pytest.mark.parametrize(
    "sent",
    [
        frame(1, 1, struct.pack(">HH", 50, 10) + b"\x00"),
        frame(1, 1, struct.pack(">HHHB", 50, 20, 0, 9) + b"short"),
        frame(1, 1, struct.pack(">HH", 60, 80) + b"\x00"),
        frame(7, 1, b"what"),
    ],
)
def test_what_cannot_be_read_closes_the_connection(wire: Wire, channel: Channel, sent: bytes) -> None:
    wire.send_bytes(sent)
    with pytest.raises(Closed) as closed:
        channel.read()
    assert closed.value.of_connection
    assert closed.value.code == 501


@pytest.mark.parametrize(
    "properties",
    [
        struct.pack(">HB", 1 << 7, 9) + b"short",
        struct.pack(">HI", 1 << 13, 4) + b"\x01aV\x00",
        struct.pack(">HI", 1 << 13, 4) + b"\x01a?\x00",
        struct.pack(">HB", 1 << 12, 2) + b"more",
    ],
)
def test_properties_that_would_harm_consumers_close_the_connection(
    broker: Broker, wire: Wire, channel: Channel, properties: bytes
) -> None:
    wire.send_bytes(PUBLISH + frame(2, 1, struct.pack(">HHQ", 60, 0, 5) + properties) + frame(3, 1, b"after"))
    with pytest.raises(Closed) as closed:
        channel.read()
    assert closed.value.of_connection
    assert closed.value.code == (502 if broker.is_embedded else 541)


def test_a_name_that_is_not_utf_8_is_escaped_in_the_refusal(broker: Broker, wire: Wire, channel: Channel) -> None:
    if not broker.is_embedded:
        pytest.skip("RabbitMQ sends the octets as they are, which not every client can read")
    wire.send_bytes(
        frame(1, 1, struct.pack(">HHH", 60, 40, 0) + b"\x02\xff!" + b"\x00\x00") + HEADER + frame(3, 1, b"after")
    )
    with pytest.raises(Closed) as closed:
        channel.read()
    assert str(closed.value) == "404 NOT_FOUND - no exchange '\\xff!' in vhost '/'"
    wire.channel()


TUNE_OK = frame(1, 0, struct.pack(">HHHIH", 10, 31, 2047, 131_072, 0))
OPEN = frame(1, 0, struct.pack(">HH", 10, 40) + b"\x01/\x00\x00")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            struct.pack(">BHI", 1, 0, 200_000),
            "501 FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,200000,131064}",
        ),
        (frame(1, 3, OPEN[7:-1]), "505 UNEXPECTED_FRAME - type 1, all octets = <<0,10,0,40,1,47,0,0>>"),
    ],
)
def test_a_broken_rule_is_told_as_soon_as_the_client_is_known(broker: Broker, sent: bytes, said: str) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(PROTOCOL)
    wire.expect(0, commands.Connection.Start)
    wire.send(wire.start_ok())
    wire.expect(0, commands.Connection.Tune)
    wire.send_bytes(TUNE_OK + sent)
    with pytest.raises(Closed) as closed:
        wire.read(0)
    assert str(closed.value) == said


def test_large_frames_may_come_together_with_the_opening(broker: Broker, name: str) -> None:
    wire = Wire(broker.url, opened=False)
    wire.send_bytes(PROTOCOL)
    wire.expect(0, commands.Connection.Start)
    wire.send(wire.start_ok())
    wire.expect(0, commands.Connection.Tune)
    channel_open = frame(1, 1, struct.pack(">HH", 20, 10) + b"\x00")
    arguments = {"x" * 200 + str(number): "y" * 200 for number in range(20)}
    declare = frames.marshal(commands.Queue.Declare(queue=name, exclusive=True, arguments=arguments), 1)
    wire.send_bytes(TUNE_OK + OPEN + channel_open + declare)
    wire.expect(0, commands.Connection.OpenOk)
    wire.expect(1, commands.Channel.OpenOk)
    wire.expect(1, commands.Queue.DeclareOk)


@pytest.mark.parametrize(
    "sent", [frame(1, 1, struct.pack(">HH", 99, 99)), PUBLISH + HEADER + frame(3, 1, b"more than five")]
)
def test_rubbish_that_rabbitmq_has_no_answer_to(broker: Broker, wire: Wire, channel: Channel, sent: bytes) -> None:
    if not broker.is_embedded:
        pytest.skip("RabbitMQ drops the connection, or waits for ever")
    wire.send_bytes(sent)
    with pytest.raises(Closed) as closed:
        channel.read()
    assert closed.value.code in (503, 505)


def test_others_are_served_while_one_breaks_the_rules(broker: Broker, channel: Channel, queue: str) -> None:
    for rubbish in (b"\x01", b"\xff" * 100, PROTOCOL + b"\x00" * 100, PROTOCOL + frame(1, 0, b"\x00\x0a\x00\x0b")):
        wire = Wire(broker.url, opened=False)
        wire.send_bytes(rubbish)
        wire.kill()
    channel.publish(queue)
    assert channel.get(queue) is not None


@SLOW
def test_heartbeats_come(broker: Broker) -> None:
    with Wire(broker.url, heartbeat=2) as wire:
        channel = wire.channel()
        broker.pass_for_clients_s(1.5)
        channel.sync()
        assert wire.heartbeats >= 1


@SLOW
def test_a_silent_client_is_disconnected(broker: Broker) -> None:
    wire = Wire(broker.url, heartbeat=1)
    wire.channel()
    broker.pass_for_clients_s(0.9)
    wire.channel()
    broker.pass_for_clients_s(3.1)
    assert wire.at_end(20)


@SLOW
def test_any_frame_is_a_sign_of_life(broker: Broker) -> None:
    beat_s = 10 if broker.is_embedded else 1  # its clock goes on by itself, too
    with Wire(broker.url, heartbeat=beat_s) as wire:
        channel = wire.channel()
        for _ in range(8):
            broker.pass_for_clients_s(beat_s / 2)
            channel.sync()


def test_a_new_secret(wire: Wire, channel: Channel) -> None:
    wire.send(commands.Connection.UpdateSecret("new", "it was time"))
    wire.expect(0, commands.Connection.UpdateSecretOk)
    channel.sync()


@SLOW
def test_publishers_are_blocked(broker: Broker, channel: Channel, name: str) -> None:
    channel.declare(name, auto_delete=True)
    channel.consume(name, no_ack=True)
    broker.block()
    try:
        channel.sync()  # a connection that only consumes goes on
        with Wire(broker.url) as other:
            publisher = other.channel()
            wait_for(lambda: _is_blocked(publisher, name))
            publisher.send(commands.Queue.Declare(queue=name, passive=True))
            assert publisher.is_quiet()
            broker.unblock()
            other.expect(0, commands.Connection.Unblocked)
            publisher.expect(commands.Queue.DeclareOk)
    finally:
        broker.unblock()


def _is_blocked(publisher: Channel, queue: str) -> bool:
    publisher.publish(queue)
    try:
        return isinstance(publisher.wire.read(0, 0.3), commands.Connection.Blocked)
    except TimeoutError:
        return False


def test_close_is_answered(broker: Broker) -> None:
    wire = Wire(broker.url)
    channel = wire.channel()
    channel.call(commands.Channel.Close(200, "bye", 0, 0))
    wire.send(commands.Connection.Close(200, "bye", 0, 0))
    wire.expect(0, commands.Connection.CloseOk)


def test_vhosts_are_apart(broker: Broker, channel: Channel, queue: str) -> None:
    if not broker.is_embedded:
        pytest.skip("the node has one virtual host; the embedded broker makes them on connect")
    with Wire(broker.url + "another") as other, pytest.raises(Closed, match=r"no queue .* in vhost 'another'"):
        other.channel().counts(queue)
