"""Nothing may be written on a channel after its end but the channel.open of the next one."""

from __future__ import annotations

import pamqp.base
import pamqp.frame
import pytest
from pamqp import commands, heartbeat

from mxworker.amqp.protocol.ended_channels import EndedChannels

OPEN = commands.Channel.Open()
CLOSE = commands.Channel.Close(504, "RPC timeout", 0, 0)
CLOSE_OK = commands.Channel.CloseOk()
DECLARE = commands.Queue.Declare(queue="orders", passive=True)
CANCEL = commands.Basic.Cancel("tag")


def passed(*written: pamqp.base.Frame) -> list[bool]:
    channels = EndedChannels()
    return [channels.lets_pass(pamqp.frame.marshal(frame, 1)) for frame in written]


@pytest.mark.parametrize(
    "late", [CLOSE, CLOSE_OK, DECLARE, CANCEL], ids=["close", "close-ok", "queue.declare", "basic.cancel"]
)
def test_nothing_follows_a_close_ok_but_open(late: pamqp.base.Frame) -> None:
    assert passed(OPEN, DECLARE, CLOSE_OK, late, OPEN, DECLARE) == [True, True, True, False, True, True]


@pytest.mark.parametrize("late", [CLOSE, DECLARE, CANCEL], ids=["close", "queue.declare", "basic.cancel"])
def test_nothing_follows_a_close_but_close_ok(late: pamqp.base.Frame) -> None:
    assert passed(OPEN, CLOSE, late, CLOSE_OK, late, OPEN, DECLARE) == [True, True, False, True, False, True, True]


def test_content_on_an_ended_channel_is_dropped_and_other_channels_go_on() -> None:
    channels = EndedChannels()
    publish = pamqp.frame.marshal(commands.Basic.Publish(routing_key="orders"), 1)
    assert channels.lets_pass(publish)
    assert channels.lets_pass(pamqp.frame.marshal(CLOSE_OK, 1))
    assert not channels.lets_pass(publish)
    assert channels.lets_pass(pamqp.frame.marshal(DECLARE, 2))


def test_frames_of_the_connection_always_pass() -> None:
    channels = EndedChannels()
    assert channels.lets_pass(b"AMQP\x00\x00\x09\x01")
    assert channels.lets_pass(pamqp.frame.marshal(heartbeat.Heartbeat(), 0))
    assert channels.lets_pass(pamqp.frame.marshal(commands.Connection.Close(200, "", 0, 0), 0))
    assert channels.lets_pass(pamqp.frame.marshal(commands.Connection.CloseOk(), 0))
