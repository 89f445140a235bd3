"""The outbox: its window, its retries, its deadlines, and verdicts that are true whatever becomes of each attempt.

Time is turned by hand; the wire is one that a test opens and closes, and that knows what it took.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mxworker import errors
from mxworker.amqp.protocol.confirms import ConfirmLedger
from mxworker.amqp.publishing.exchanges import Answered
from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publishing import TRANSITIONS, Publishing, State
from mxworker.amqp.publishing.routes import Route
from mxworker.config.publisher import PublisherSettings
from tests.harness.hand_clock import HandClock

TIMEOUT_S = 5.0
ROUTE = Route("", "q", 0)
MOST_PROPERTIES_BYTES = 100


class LongestWait(random.Random):
    """Makes every jittered wait as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Wire:
    """Stands for a publisher channel: takes publishes while it is open, and remembers them."""

    connection = None
    is_over = False

    def __init__(self) -> None:
        self.takes_more = True
        self.max_properties_bytes = MOST_PROPERTIES_BYTES
        self.ledger: ConfirmLedger[Publishing] = ConfirmLedger()
        self.sent: list[Publishing] = []
        self.given_up: list[Publishing] = []

    def send(self, publishing: Publishing) -> None:
        self.ledger.add(publishing)
        publishing.state = State.SENT
        publishing.give_up = self.give_up
        self.sent.append(publishing)

    def give_up(self, publishing: Publishing) -> None:
        self.ledger.drop(publishing)
        self.given_up.append(publishing)


class Looks:
    """Stands for `Exchanges`: knows what a test says, and remembers who asked."""

    def __init__(self) -> None:
        self.known = {""}
        self.refused: dict[str, errors.PublishError] = {}
        self.asked: list[str] = []
        self._answered: dict[str, Answered] = {}

    def refusal(self, exchange: str) -> errors.PublishError | None:
        return self.refused.get(exchange)

    def look(self, exchange: str, connection: object, answered: Answered) -> None:
        assert exchange not in self._answered, "one look at a time"
        self.asked.append(exchange)
        self._answered[exchange] = answered

    @property
    def under_way(self) -> list[str]:
        return sorted(self._answered)

    def answer(self, exchange: str, is_known: bool = True, missing: errors.PublishError | None = None) -> None:
        if is_known and missing is None:
            self.known.add(exchange)
        self._answered.pop(exchange)(exchange, missing)


class Line:
    """Stands for a link that is up, or not."""

    last_error = "the wire is closed"

    def __init__(self, connected: bool) -> None:
        self.live = self if connected else None
        self.plane = self
        self.blocked_reason: str | None = None


class Watched(Publishing):
    """A publishing that goes only from one state to another that may follow it."""

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        before = getattr(self, "_state", None)
        assert before is None or state in TRANSITIONS[before], (before, state)
        self._state = state


class Office:
    """An outbox with its wires and its clock."""

    def __init__(self, connected: bool = False, **chosen: object) -> None:
        self.settings = PublisherSettings(**{"timeout_s": TIMEOUT_S, "channels": 1, **chosen})  # type: ignore[arg-type]
        self.clock = HandClock()
        self.looks = Looks()
        loop: Any = self.clock
        link: Any = Line(connected)
        looks: Any = self.looks
        self.outbox = Outbox(self.settings, loop, LongestWait(), link, looks)
        self.wires: list[Wire] = []
        self.all_wires: list[Wire] = []
        self._numbers = itertools.count()
        for number in range(self.settings.channels):
            self.replace(number)

    @property
    def wire(self) -> Wire:
        return self.wires[0]

    def replace(self, number: int) -> None:
        """Let a new channel have this number; the one before is still heard."""
        wire: Any = Wire()
        self.wires[number : number + 1] = [wire]
        self.all_wires.append(wire)
        self.outbox.use(number, wire)

    def publish(
        self, timeout_s: float | None = None, route: Route = ROUTE, message_id: bytes | None = None
    ) -> Publishing:
        number = b"%d" % next(self._numbers)
        deadline = self.clock.time() + (TIMEOUT_S if timeout_s is None else timeout_s)
        publishing = Watched(route, message_id or number, b"", number, deadline)
        self.outbox.accept(publishing, has_own_timeout=timeout_s is not None)
        return publishing

    def _settle(self, publishings: Iterable[Publishing]) -> list[Publishing]:
        settled = []
        for publishing in publishings:
            assert publishing.give_up is not None
            wire = publishing.give_up.__self__  # type: ignore[attr-defined]
            settled += wire.ledger.settle(publishing.tag, multiple=False)
        return settled

    def confirm(self, *publishings: Publishing) -> None:
        self.outbox.confirmed(self._settle(publishings))

    def nack(self, *publishings: Publishing) -> None:
        self.outbox.nacked(self._settle(publishings))

    def lose(self, *publishings: Publishing) -> None:
        self.outbox.lost(self._settle(publishings), "the wire broke")

    def refuse(self, *publishings: Publishing) -> None:
        self.outbox.refused(self._settle(publishings), errors.MessageTooLarge("above a limit"))

    def unwrite(self, *publishings: Publishing) -> None:
        """Let the channel have ended before these were written."""
        unwritten = self._settle(publishings)
        for wire in self.all_wires:
            wire.sent = [publishing for publishing in wire.sent if publishing not in unwritten]
        self.outbox.unwritten(unwritten)

    def give_back(self, publishing: Publishing) -> None:
        publishing.return_reason = "312 NO_ROUTE"
        self.confirm(publishing)

    def next_attempt(self) -> None:
        self.clock.advance(self.settings.retry_cap_s)


def outcome(publishing: Publishing) -> type[errors.PublishError] | None:
    """Return the class of the error that a publish ended in, None when it was confirmed."""
    error = publishing.receipt.exception()
    return None if error is None else type(error)


# ---- retries


def test_refused_publish_is_sent_three_times_in_all() -> None:
    office = Office(attempts=3)
    publishing = office.publish()
    while not publishing.receipt.done():
        office.nack(publishing)
        office.next_attempt()
    assert len(office.wire.sent) == 3
    assert outcome(publishing) is errors.PublishNacked


def test_waits_between_attempts_double_up_to_the_cap() -> None:
    office = Office(attempts=8)
    publishing = office.publish()
    for attempts_made in range(1, 8):
        before = office.clock.time()
        office.nack(publishing)
        while len(office.wire.sent) == attempts_made:
            office.clock.advance(0.001)
        waited_s = office.clock.time() - before
        assert waited_s == pytest.approx(min(0.5, 0.05 * 2 ** (attempts_made - 1)), abs=0.002)


def test_lost_publish_is_not_sent_twice_unless_duplicates_are_allowed() -> None:
    for retry, sent in ((False, 1), (True, 3)):
        office = Office(retry_unconfirmed=retry)
        publishing = office.publish()
        while not publishing.receipt.done():
            office.lose(publishing)
            office.next_attempt()
        assert len(office.wire.sent) == sent
        assert outcome(publishing) is errors.PublishUnconfirmed


def test_abandoned_publish_is_not_sent_again() -> None:
    office = Office(retry_unconfirmed=True)
    nacked, lost = office.publish(), office.publish()
    office.outbox.abandon(nacked)
    office.outbox.abandon(lost)
    assert office.outbox.in_flight == 2, "what is on its way counts until its fate is known"
    office.nack(nacked)
    office.lose(lost)
    office.next_attempt()
    assert len(office.wire.sent) == 2
    assert (outcome(nacked), outcome(lost)) == (errors.PublishNacked, errors.PublishUnconfirmed)
    assert office.outbox.in_flight == 0


def test_publish_that_is_abandoned_before_its_next_attempt_is_over() -> None:
    office = Office(max_in_flight=2)
    resting, other = office.publish(), office.publish()
    office.nack(resting, other)
    office.outbox.abandon(resting)
    assert outcome(resting) is errors.PublishNacked
    office.next_attempt()
    assert office.wire.sent == [resting, other, other]


# ---- an unknown attempt makes the whole unknown


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("lose", "nack", errors.PublishUnconfirmed),
        ("lose", "give_back", errors.PublishUnconfirmed),
        ("lose", "lose", errors.PublishUnconfirmed),
        ("lose", "confirm", None),
        ("nack", "lose", errors.PublishUnconfirmed),
        ("nack", "nack", errors.PublishNacked),
        ("nack", "give_back", errors.Unroutable),
        ("nack", "confirm", None),
    ],
)
def test_verdict_over_two_attempts_is_the_truth_about_both(
    first: str, then: str, expected: type[errors.PublishError] | None
) -> None:
    office = Office(attempts=2, retry_unconfirmed=True)
    publishing = office.publish()
    getattr(office, first)(publishing)
    office.next_attempt()
    assert len(office.wire.sent) == 2
    getattr(office, then)(publishing)
    assert outcome(publishing) is expected


def test_refusal_without_an_attempt_does_not_hide_that_an_earlier_one_is_unknown() -> None:
    for first, expected in (("lose", errors.PublishUnconfirmed), ("nack", errors.MessageTooLarge)):
        office = Office(attempts=2, retry_unconfirmed=True)
        publishing = office.publish()
        getattr(office, first)(publishing)
        office.wire.max_properties_bytes = -1  # as if the next connection took smaller frames
        office.next_attempt()
        assert len(office.wire.sent) == 1
        assert outcome(publishing) is expected


def test_return_of_an_earlier_attempt_says_nothing_of_the_next() -> None:
    office = Office()
    publishing = office.publish()
    publishing.return_reason = "312 NO_ROUTE"
    office.nack(publishing)
    office.next_attempt()
    office.confirm(publishing)
    assert outcome(publishing) is None


def test_what_was_returned_is_certain_when_the_channel_ends() -> None:
    office = Office(retry_unconfirmed=True)
    publishing = office.publish()
    publishing.return_reason = "312 NO_ROUTE"
    office.lose(publishing)
    assert outcome(publishing) is errors.Unroutable


# ---- deadlines


def test_publish_ends_at_its_deadline_wherever_it_is() -> None:
    office = Office(max_in_flight=3, retry_unconfirmed=True)
    sent, nacked, lost = office.publish(), office.publish(), office.publish()
    waiting = office.publish()
    office.clock.advance(TIMEOUT_S - 0.01)
    office.wire.takes_more = False
    office.nack(nacked)
    office.lose(lost)
    assert not any(one.receipt.done() for one in (sent, nacked, lost, waiting))
    office.clock.advance(1 / 64)
    assert outcome(sent) is errors.PublishUnconfirmed
    assert outcome(nacked) is errors.PublishNacked
    assert outcome(lost) is errors.PublishUnconfirmed
    assert outcome(waiting) is errors.PublishOverflow
    assert office.wire.given_up == [sent], "its channel must hear of it"


def test_publish_that_waits_for_its_channel_ends_at_its_deadline_as_not_sent() -> None:
    office = Office()
    office.wire.takes_more = False
    waiting = office.publish()
    office.clock.advance(TIMEOUT_S)
    assert outcome(waiting) is errors.PublishOverflow
    assert "the wire is closed" in str(waiting.receipt.exception())


def test_timeouts_of_their_own_hold_beside_the_default_one() -> None:
    office = Office()
    publishings = {wanted_s: office.publish(wanted_s) for wanted_s in (9.0, 1.0, 3.0)}
    publishings[TIMEOUT_S] = office.publish()
    ended_at: dict[float, float] = {}
    while len(ended_at) < len(publishings):
        office.clock.advance(0.1)
        for wanted_s, publishing in publishings.items():
            if publishing.receipt.done():
                ended_at.setdefault(wanted_s, office.clock.time())
    for wanted_s, at_s in ended_at.items():
        assert at_s == pytest.approx(wanted_s, abs=0.11)


def test_each_publish_has_its_own_deadline_when_they_come_one_after_the_other() -> None:
    office = Office()
    publishings = []
    for _ in range(10):
        publishings.append(office.publish())
        office.clock.advance(0.5)
    office.clock.advance(0.25)
    for _ in range(9):
        ended = [publishing.receipt.done() for publishing in publishings]
        assert ended == sorted(ended, reverse=True), "the oldest first"
        assert sum(ended) == min(10, int((office.clock.time() - TIMEOUT_S) / 0.5) + 1)
        office.clock.advance(0.5)


def test_answer_after_the_deadline_changes_nothing_twice() -> None:
    office = Office()
    publishing = office.publish()
    office.clock.advance(TIMEOUT_S)
    office.confirm(publishing)
    office.lose(publishing)
    assert outcome(publishing) is errors.PublishUnconfirmed
    assert office.outbox.in_flight == 0
    assert office.outbox.failed == 1


@pytest.mark.parametrize("timeout_s", [None, TIMEOUT_S], ids=["the publisher's", "its own"])
def test_confirm_that_waited_while_the_loop_was_blocked_is_not_too_late(timeout_s: float | None) -> None:
    office = Office()
    confirmed, silent = office.publish(timeout_s), office.publish(timeout_s)
    office.clock.oversleep(TIMEOUT_S + 1.0)
    office.clock.advance(0.0)
    assert not confirmed.receipt.done(), "its confirm may be in the socket"
    office.confirm(confirmed)
    office.clock.advance(0.1)
    assert (outcome(confirmed), outcome(silent)) == (None, errors.PublishUnconfirmed)


# ---- the window


def test_those_who_wait_are_let_in_first_come_first_served() -> None:
    office = Office(max_in_flight=2)
    publishings = [office.publish() for _ in range(20)]
    while office.outbox.in_flight:
        assert office.outbox.in_flight <= 2
        office.confirm(office.wire.sent[office.outbox.confirmed_count])
    assert office.wire.sent == publishings


def test_one_who_stops_waiting_is_not_counted_as_waiting() -> None:
    office = Office(max_in_flight=1)
    office.publish()
    first, second, third = office.publish(), office.publish(), office.publish()
    office.outbox.abandon(second)
    assert office.outbox.stats().waiting == 2
    office.outbox.abandon(first)
    assert office.outbox.stats().waiting == 1
    office.confirm(office.wire.sent[0])
    assert office.wire.sent[-1] is third
    assert office.outbox.stats().waiting == 0


def test_one_who_stops_trying_makes_room() -> None:
    office = Office(max_in_flight=1)
    office.wire.takes_more = False
    first, second = office.publish(), office.publish()
    office.outbox.abandon(first)
    assert (first.state, second.state) == (State.ENDED, State.CHANNEL)


def test_order_is_kept_over_an_outage() -> None:
    office = Office(max_in_flight=5)
    office.wire.takes_more = False
    publishings = [office.publish() for _ in range(4)]
    office.wire.takes_more = True
    publishings += [office.publish() for _ in range(4)]  # the outbox has not been told yet
    office.outbox.send_waiting()
    office.confirm(*office.wire.sent)
    assert office.wire.sent == publishings


def test_what_could_not_be_sent_goes_before_what_came_later() -> None:
    office = Office()
    first, second = office.publish(), office.publish()
    office.wire.takes_more = False
    later = office.publish()
    office.unwrite(first, second)
    office.wire.takes_more = True
    office.outbox.send_waiting()
    assert office.wire.sent == [first, second, later]


@pytest.mark.parametrize("front_timeout_s", [None, 3600.0], ids=["all-alike", "a-patient-one-in-front"])
def test_long_outage_does_not_fill_the_queues(front_timeout_s: float | None) -> None:
    office = Office(max_in_flight=100)
    office.wire.takes_more = False
    office.publish(front_timeout_s)
    most = 0
    for _ in range(600):
        for _ in range(50):
            office.publish(0.5)
        most = max(most, sum(office.outbox.stats().waiting_for.values()))
        office.clock.advance(1.0)
        patient = 0 if front_timeout_s is None and office.clock.time() >= TIMEOUT_S else 1
        remembered = sum(office.outbox.stats().waiting_for.values())
        assert remembered == office.outbox.in_flight == patient, "what ended is forgotten"
    print(f"{office.outbox.queued} publishes into an outage: at most {most} at once")
    assert most == 51


# ---- channels


def test_one_channel_does_not_wait_for_another() -> None:
    office = Office(channels=2)
    office.wires[0].takes_more = False
    held_up, sent = office.publish(route=Route("", "q", 0)), office.publish(route=Route("", "p", 1))
    assert (held_up.state, sent.state) == (State.CHANNEL, State.SENT)
    office.replace(0)
    assert held_up.state is State.SENT


def test_later_publish_does_not_overtake_one_that_waits_for_its_channel() -> None:
    office = Office()
    office.wire.takes_more = False
    first = office.publish()
    office.wire.takes_more = True
    second = office.publish()
    assert office.wire.sent == []
    office.outbox.send_waiting()
    assert office.wire.sent == [first, second]


def test_publish_that_is_late_when_its_channel_comes_is_not_sent_and_lets_another_in() -> None:
    office = Office(max_in_flight=2)
    office.outbox.use(0, None)
    late, good = office.publish(), office.publish(timeout_s=60.0)
    waiting = office.publish(timeout_s=60.0)
    office.clock.oversleep(TIMEOUT_S + 0.3)  # the loop was blocked: the channel comes before the timer
    office.replace(0)
    assert office.wire.sent == [good, waiting]
    assert outcome(late) is errors.PublishOverflow


def test_retry_goes_before_what_came_later_and_keeps_its_order() -> None:
    office = Office()
    first, second = office.publish(), office.publish()
    office.nack(first, second)
    office.wire.takes_more = False
    later = office.publish()
    office.next_attempt()
    office.wire.takes_more = True
    office.outbox.send_waiting()
    assert office.wire.sent[2:] == [first, second, later]


def test_what_a_channel_did_not_write_is_sent_by_the_next_and_is_no_attempt() -> None:
    office = Office(attempts=1)
    publishing = office.publish()
    office.replace(0)
    office.unwrite(publishing)
    assert office.wire.sent == [publishing]
    office.confirm(publishing)
    assert outcome(publishing) is None


# ---- message ids


def test_publishes_of_one_id_are_sent_one_after_the_other_in_their_order() -> None:
    office = Office()
    publishings = [office.publish(message_id=b"same") for _ in range(5)]
    other = office.publish()
    assert office.wire.sent == [publishings[0], other]
    for number in range(4):
        office.confirm(publishings[number])
        assert office.wire.sent[2:] == publishings[1 : number + 2]


def test_id_is_free_on_another_channel() -> None:
    office = Office(channels=2)
    here, there = office.publish(route=Route("", "q", 0), message_id=b"same"), Route("", "p", 1)
    assert office.publish(route=there, message_id=b"same").state is State.SENT
    behind = office.publish(route=there, message_id=b"same")
    office.confirm(here)
    assert behind.state is State.SAME_ID, "the one on its own channel has no outcome yet"


@pytest.mark.parametrize("how", ["confirm", "give_back", "nack", "lose", "refuse"])
def test_next_of_an_id_is_sent_however_the_one_before_left_the_channel(how: str) -> None:
    office = Office(retry_unconfirmed=True)
    first, second = office.publish(message_id=b"same"), office.publish(message_id=b"same")
    getattr(office, how)(first)
    assert office.wire.sent[-1] is second


def test_next_of_an_id_is_sent_when_the_one_before_is_late() -> None:
    office = Office()
    first, second = office.publish(message_id=b"same"), office.publish(60.0, message_id=b"same")
    office.clock.advance(TIMEOUT_S)
    assert outcome(first) is errors.PublishUnconfirmed
    assert office.wire.sent[-1] is second


def test_one_that_ends_when_it_is_its_turn_passes_the_turn_on() -> None:
    office = Office()
    first = office.publish(60.0, message_id=b"same")
    second, third = office.publish(1.0, message_id=b"same"), office.publish(60.0, message_id=b"same")
    office.wire.takes_more = False
    office.confirm(first)
    assert (second.state, third.state) == (State.CHANNEL, State.SAME_ID)
    office.clock.advance(2.0)
    assert outcome(second) is errors.PublishOverflow
    office.wire.takes_more = True
    office.outbox.send_waiting()
    assert office.wire.sent == [first, third]


def test_one_that_gives_up_its_place_leaves_the_id_to_who_has_it() -> None:
    office = Office()
    first, second, third = (office.publish(message_id=b"same") for _ in range(3))
    office.outbox.abandon(second)
    assert third.state is State.SAME_ID
    office.confirm(first)
    assert office.wire.sent == [first, third]


def test_one_that_never_had_the_id_passes_on_no_turn() -> None:
    office = Office()
    first, second, third = (office.publish(message_id=b"same") for _ in range(3))
    office.wire.takes_more = False
    office.outbox.abandon(office.publish(message_id=b"same"))
    assert (second.state, third.state) == (State.SAME_ID, State.SAME_ID)
    office.wire.takes_more = True
    office.confirm(first)
    office.confirm(second)
    assert office.wire.sent == [first, second, third]


def test_thousands_of_one_id_that_can_never_be_sent_end_one_by_one() -> None:
    office = Office()
    first = office.publish(message_id=b"same")
    others = [office.publish(message_id=b"same") for _ in range(5000)]
    office.wire.max_properties_bytes = -1
    office.confirm(first)
    assert {outcome(one) for one in others} == {errors.MessageTooLarge}


# ---- exchanges

FANOUT = Route("e", "k", 0)
MISSING = errors.Unroutable("no exchange 'e'")


def test_publishes_to_an_unknown_exchange_wait_for_one_look() -> None:
    office = Office()
    first, second = office.publish(route=FANOUT), office.publish(route=FANOUT)
    other = office.publish()
    assert (office.looks.asked, office.wire.sent) == (["e"], [other])
    office.looks.answer("e")
    third = office.publish(route=FANOUT)
    assert office.wire.sent == [other, first, second, third]
    assert office.looks.asked == ["e"]


def test_publishes_to_a_missing_exchange_end_and_make_room() -> None:
    office = Office(max_in_flight=2)
    missing = [office.publish(route=FANOUT) for _ in range(2)]
    waiting = office.publish()
    office.looks.answer("e", missing=MISSING)
    assert [outcome(one) for one in missing] == [errors.Unroutable, errors.Unroutable]
    assert office.wire.sent == [waiting]


def test_exchange_is_looked_for_again_when_nobody_could_say() -> None:
    office = Office()
    publishing = office.publish(route=FANOUT)
    office.looks.answer("e", is_known=False)
    assert (publishing.state, office.looks.asked) == (State.EXCHANGE, ["e", "e"])
    office.looks.answer("e")
    assert publishing.state is State.SENT


def test_answer_that_comes_after_all_have_ended_concerns_nobody() -> None:
    office = Office()
    publishing = office.publish(1.0, route=FANOUT)
    office.clock.advance(1.0)
    assert outcome(publishing) is errors.PublishOverflow
    later = office.publish(route=FANOUT)
    assert office.looks.asked == ["e"], "one look at a time"
    office.looks.answer("e")
    assert office.wire.sent == [later]


def test_exchange_that_was_just_refused_is_not_looked_for() -> None:
    office = Office()
    office.looks.refused["e"] = errors.PublishNacked("access refused")
    assert outcome(office.publish(route=FANOUT)) is errors.PublishNacked
    assert office.looks.asked == []


# ---- what it waits for


def test_waits_are_counted_by_what_is_waited_for() -> None:
    office = Office(max_in_flight=6, channels=2)
    office.publish(message_id=b"same")
    office.publish(message_id=b"same")
    office.publish(route=FANOUT)
    office.nack(office.publish())
    office.outbox.use(1, None)
    office.publish(route=Route("", "p", 1))
    office.wire.takes_more = False
    office.publish()
    office.publish()
    office.publish()
    expected = {"window": 2, "connection": 1, "room": 1, "same id": 1, "exchange": 1, "retry": 1}
    assert office.outbox.stats().waiting_for == expected
    assert office.outbox.in_flight == 6, "those, and the one that was sent"
    office.outbox.end_all("the publisher was closed")
    assert office.outbox.stats().waiting_for == dict.fromkeys(expected, 0)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda office: office.publish(message_id=b"same"), "another publish with its message id"),
        (lambda office: [office.publish() for _ in range(9)], "9 publishes before it had no outcome"),
        (lambda office: None, "whether the exchange exists"),
        (lambda office: office.outbox.use(0, None), "no channel could take it"),
    ],
)
def test_error_of_what_was_not_sent_says_what_it_waited_for(prepare: Callable[[Office], object], why: str) -> None:
    office = Office(max_in_flight=9, connected=True)
    prepare(office)
    publishing = office.publish(1.0, route=FANOUT if "exchange" in why else ROUTE, message_id=b"same")
    office.clock.advance(1.0)
    assert outcome(publishing) is errors.PublishOverflow
    assert why in str(publishing.receipt.exception())


# ---- everything at once, against what the wire knows


class OutboxAgainstTheTruth(RuleBasedStateMachine):
    """Whatever happens to its attempts, a publish ends in what is true of them, and every count adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.office = Office()
        self.publishings: list[Publishing] = []
        self.history: dict[Publishing, list[str]] = {}
        self.in_doubt: set[Publishing] = set()

    @initialize(max_in_flight=st.integers(1, 4), attempts=st.integers(1, 3), retry=st.booleans())
    def open(self, max_in_flight: int, attempts: int, retry: bool) -> None:
        chosen = {"max_in_flight": max_in_flight, "attempts": attempts, "retry_unconfirmed": retry, "channels": 2}
        self.office = Office(**chosen)

    @rule(
        timeout_s=st.none() | st.sampled_from([0.01, 0.3, 20.0]),
        route=st.sampled_from([ROUTE, FANOUT, Route("", "p", 1), Route("f", "k", 1)]),
        message_id=st.none() | st.sampled_from([b"same", b"other"]),
    )
    def publish(self, timeout_s: float | None, route: Route, message_id: bytes | None) -> None:
        publishing = self.office.publish(timeout_s, route, message_id)
        self.publishings.append(publishing)
        self.history[publishing] = []

    @rule(number=st.integers(0, 1), is_open=st.booleans())
    def open_or_close(self, number: int, is_open: bool) -> None:
        self.office.wires[number].takes_more = is_open
        if is_open:
            self.office.outbox.send_waiting()

    @rule(number=st.integers(0, 1))
    def replace(self, number: int) -> None:
        self.office.replace(number)

    @precondition(lambda self: self.office.looks.under_way)
    @rule(data=st.data(), is_known=st.booleans(), is_missing=st.booleans())
    def answer_look(self, data: st.DataObject, is_known: bool, is_missing: bool) -> None:
        exchange = data.draw(st.sampled_from(self.office.looks.under_way))
        if is_missing:
            for publishing in self.publishings:
                if publishing.state is State.EXCHANGE and publishing.route.exchange == exchange:
                    self.history[publishing].append("give_back")
        self.office.looks.answer(exchange, is_known, MISSING if is_missing else None)

    @precondition(lambda self: self.office.looks.known)
    @rule(exchange=st.sampled_from(["e", "f"]))
    def forget(self, exchange: str) -> None:
        self.office.looks.known.discard(exchange)

    @property
    def under_way(self) -> list[Publishing]:
        return [publishing for publishing in self.publishings if publishing.state is State.SENT]

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), what=st.sampled_from(["confirm", "nack", "give_back", "refuse", "lose", "unwrite"]))
    def answer(self, data: st.DataObject, what: str) -> None:
        publishing = data.draw(st.sampled_from(self.under_way))
        if what != "unwrite":
            self.history[publishing].append(what)
        getattr(self.office, what)(publishing)

    @precondition(lambda self: self.publishings)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.office.outbox.abandon(data.draw(st.sampled_from(self.publishings)))

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.6, 6.0]))
    def wait(self, seconds: float) -> None:
        self.office.clock.advance(seconds)
        for publishing in [one for wire in self.office.all_wires for one in wire.given_up]:
            if publishing not in self.in_doubt:
                self.in_doubt.add(publishing)
                self.history[publishing].append("lose")

    @invariant()
    def counts_add_up(self) -> None:
        outbox = self.office.outbox
        states = Counter(publishing.state for publishing in self.publishings)
        waits = outbox.stats().waiting_for
        assert outbox.queued == outbox.confirmed_count + outbox.failed + outbox.in_flight + outbox.stats().waiting
        assert outbox.in_flight == states[State.SENT] + sum(waits.values()) - waits["window"]
        assert outbox.in_flight <= self.office.settings.max_in_flight
        assert outbox.stats().waiting == waits["window"] == states[State.WINDOW]
        assert waits["connection"] + waits["room"] == states[State.CHANNEL]
        assert waits["exchange"] == states[State.EXCHANGE]
        assert waits["same id"] == states[State.SAME_ID]
        assert waits["retry"] == states[State.RETRY]

    @invariant()
    def attempts_are_bounded(self) -> None:
        sent = Counter(publishing for wire in self.office.all_wires for publishing in wire.sent)
        assert all(count <= self.office.settings.attempts for count in sent.values())

    @invariant()
    def verdicts_are_true(self) -> None:
        for publishing, history in self.history.items():
            if publishing.receipt.done():
                assert outcome(publishing) is truth(history)
            else:
                assert publishing.state is not State.ENDED
                assert publishing.deadline >= self.office.clock.time()

    @invariant()
    def nothing_waits_that_could_go_on(self) -> None:
        outbox = self.office.outbox
        open_ones = [publishing for publishing in self.publishings if publishing.state is not State.ENDED]
        for publishing in open_ones:
            if publishing.state is State.WINDOW:
                assert outbox.is_full
            if publishing.state is State.CHANNEL:
                assert not self.office.wires[publishing.route.channel].takes_more
            if publishing.state is State.EXCHANGE:
                assert publishing.route.exchange in self.office.looks.under_way
            if publishing.state is State.SAME_ID:
                assert any(
                    other.state in (State.SENT, State.CHANNEL, State.EXCHANGE)
                    for other in open_ones
                    if other.message_id == publishing.message_id and other.route.channel == publishing.route.channel
                )


def truth(history: list[str]) -> type[errors.PublishError] | None:
    """Return what a publish must end in whose attempts ended so."""
    if not history:
        return errors.PublishOverflow
    if history[-1] == "confirm":
        return None
    if "lose" in history:
        return errors.PublishUnconfirmed
    return {"give_back": errors.Unroutable, "refuse": errors.MessageTooLarge, "nack": errors.PublishNacked}[history[-1]]


TestOutboxAgainstTheTruth = OutboxAgainstTheTruth.TestCase
TestOutboxAgainstTheTruth.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_waits_between_attempts_grow_as_the_settings_say() -> None:
    office = Office(attempts=5, retry_base_s=0.125, retry_cap_s=0.5, retry_factor=3.0)
    publishing = office.publish(timeout_s=60.0)
    waits = []
    for _ in range(4):
        office.nack(publishing)
        sent = len(office.wire.sent)
        begun = office.clock.time()
        while len(office.wire.sent) == sent:
            office.clock.advance(1 / 64)
        waits.append(office.clock.time() - begun)
    assert waits == [0.125, 0.375, 0.5, 0.5]
