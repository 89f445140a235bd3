"""Parked publishes keep the order of their lane, and one lane does not wait for another."""

from __future__ import annotations

from mxworker.amqp.publishing.parking import Parking
from mxworker.amqp.publishing.publishing import Publishing, Stage
from mxworker.amqp.publishing.routes import Route

NEVER = 1e9


class Wire:
    """Takes the publishes of open lanes and remembers them."""

    def __init__(self, *open_lanes: int) -> None:
        self.open_lanes = set(open_lanes)
        self.sent: list[bytes] = []
        self.parking = Parking(2, self.take)

    def take(self, publishing: Publishing) -> bool:
        if publishing.route.channel not in self.open_lanes:
            return False
        publishing.stage = Stage.SENT
        self.sent.append(publishing.body)
        return True


def parked(body: bytes, lane: int = 0, deadline: float = NEVER) -> Publishing:
    publishing = Publishing(Route("", "q", lane), body, b"", body, deadline)
    publishing.stage = Stage.PARKED
    return publishing


def test_one_lane_does_not_wait_for_another() -> None:
    wire = Wire(1)
    wire.parking.park(parked(b"held up", lane=0))
    wire.parking.park(parked(b"sent", lane=1))
    assert wire.sent == [b"sent"]
    wire.open_lanes = {0}
    wire.parking.pump(0.0)
    assert wire.sent == [b"sent", b"held up"]
    assert len(wire.parking) == 0


def test_later_publish_does_not_overtake_a_parked_one_of_its_lane() -> None:
    wire = Wire()
    wire.parking.park(parked(b"1"))
    wire.open_lanes = {0}
    wire.parking.park(parked(b"2"))
    assert wire.sent == []
    wire.parking.pump(0.0)
    assert wire.sent == [b"1", b"2"]


def test_what_is_put_back_goes_before_what_came_later_and_keeps_its_order() -> None:
    wire = Wire()
    wire.parking.park(parked(b"3"))
    ended = parked(b"ended")
    ended.stage = Stage.ENDED
    wire.parking.put_back([parked(b"1"), ended, parked(b"2")])
    wire.open_lanes = {0}
    wire.parking.pump(0.0)
    assert wire.sent == [b"1", b"2", b"3"]


def test_what_is_past_its_deadline_or_has_ended_is_not_sent() -> None:
    wire = Wire()
    late, gone, good = parked(b"late", deadline=5.0), parked(b"gone"), parked(b"good")
    for one in (late, gone, good):
        wire.parking.park(one)
    gone.stage = Stage.ENDED
    wire.open_lanes = {0}
    wire.parking.pump(5.0)
    assert wire.sent == [b"good"]


def test_long_outage_does_not_fill_the_parking() -> None:
    wire = Wire()
    patient = parked(b"patient")
    wire.parking.park(patient)
    for number in range(10_000):
        one = parked(b"%d" % number)
        wire.parking.park(one)
        one.stage = Stage.ENDED
        wire.parking.forget_ended(live=1)
        assert len(wire.parking) <= 3
    wire.open_lanes = {0}
    wire.parking.pump(0.0)
    assert wire.sent == [b"patient"]
