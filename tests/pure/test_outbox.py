"""The outbox: its window, its retries, its deadlines, and verdicts that are true whatever becomes of each attempt.

Time is turned by hand; the wire is one that a test opens and closes, and that knows what it took.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publishing import Publishing, Stage
from mxworker.amqp.publishing.routes import Route
from mxworker.backoff import PUBLISH_RETRY
from mxworker.config import PublisherSettings
from mxworker.errors import (
    MessageTooLarge,
    PublishError,
    PublishNacked,
    PublishOverflow,
    PublishUnconfirmed,
    Unroutable,
)
from tests.harness.hand_clock import HandClock

TIMEOUT_S = 5.0
ROUTE = Route("", "q", 0)


class LongestWait(random.Random):
    """Makes every jittered wait as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Wire:
    """Takes what an outbox hands on while it is open, and remembers it."""

    def __init__(self) -> None:
        self.is_open = True
        self.has_id_waiters = False
        self.sent: list[Publishing] = []
        self.given_up: list[Publishing] = []

    def take(self, publishing: Publishing) -> bool:
        if self.is_open:
            publishing.stage = Stage.SENT
            self.sent.append(publishing)
        return self.is_open

    def give_up(self, publishing: Publishing) -> None:
        self.given_up.append(publishing)

    def free_id(self, message_id: bytes) -> None:
        raise AssertionError(message_id)

    def why_not(self) -> str:
        return "the wire is closed"


class Office:
    """An outbox with its wire and its clock."""

    def __init__(self, **chosen: object) -> None:
        self.settings = PublisherSettings(**{"timeout_s": TIMEOUT_S, **chosen})  # type: ignore[arg-type]
        self.clock = HandClock()
        self.wire = Wire()
        self.outbox = Outbox(self.settings, cast(asyncio.AbstractEventLoop, self.clock), LongestWait())
        self.outbox.attach(self.wire)
        self._numbers = itertools.count()

    def publish(self, timeout_s: float | None = None) -> Publishing:
        number = b"%d" % next(self._numbers)
        deadline = self.clock.time() + (TIMEOUT_S if timeout_s is None else timeout_s)
        publishing = Publishing(ROUTE, number, b"", number, deadline)
        self.outbox.accept(publishing, has_own_timeout=timeout_s is not None)
        return publishing

    def confirm(self, *publishings: Publishing) -> None:
        self.outbox.confirmed(publishings)

    def nack(self, *publishings: Publishing) -> None:
        self.outbox.nacked(list(publishings))

    def lose(self, *publishings: Publishing) -> None:
        self.outbox.lost(list(publishings), "the wire broke")

    def give_back(self, publishing: Publishing) -> None:
        publishing.return_reason = "312 NO_ROUTE"
        self.confirm(publishing)

    def next_attempt(self) -> None:
        self.clock.advance(PUBLISH_RETRY.cap_s)

    @property
    def remembered(self) -> int:
        """How many publishes its queues hold, those that have ended included."""
        return len(self.outbox._parking) + len(self.outbox._waiting)


def outcome(publishing: Publishing) -> type[PublishError] | None:
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
    assert outcome(publishing) is PublishNacked


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
        assert outcome(publishing) is PublishUnconfirmed


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
    assert (outcome(nacked), outcome(lost)) == (PublishNacked, PublishUnconfirmed)
    assert office.outbox.in_flight == 0


# ---- an unknown attempt makes the whole unknown


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("lose", "nack", PublishUnconfirmed),
        ("lose", "give_back", PublishUnconfirmed),
        ("lose", "lose", PublishUnconfirmed),
        ("lose", "confirm", None),
        ("nack", "lose", PublishUnconfirmed),
        ("nack", "nack", PublishNacked),
        ("nack", "give_back", Unroutable),
        ("nack", "confirm", None),
    ],
)
def test_verdict_over_two_attempts_is_the_truth_about_both(
    first: str, then: str, expected: type[PublishError] | None
) -> None:
    office = Office(attempts=2, retry_unconfirmed=True)
    publishing = office.publish()
    getattr(office, first)(publishing)
    office.next_attempt()
    assert len(office.wire.sent) == 2
    getattr(office, then)(publishing)
    assert outcome(publishing) is expected


def test_refusal_without_an_attempt_does_not_hide_that_an_earlier_one_is_unknown() -> None:
    for first, expected in (("lose", PublishUnconfirmed), ("nack", MessageTooLarge)):
        office = Office(attempts=2, retry_unconfirmed=True)
        publishing = office.publish()
        getattr(office, first)(publishing)
        office.outbox.refused((publishing,), MessageTooLarge("above a limit"))
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
    assert outcome(publishing) is Unroutable


# ---- deadlines


def test_publish_ends_at_its_deadline_wherever_it_is() -> None:
    office = Office(max_in_flight=3, retry_unconfirmed=True)
    sent, nacked, lost = office.publish(), office.publish(), office.publish()
    waiting = office.publish()
    office.clock.advance(TIMEOUT_S - 0.01)
    office.wire.is_open = False
    office.nack(nacked)
    office.lose(lost)
    assert not any(one.receipt.done() for one in (sent, nacked, lost, waiting))
    office.clock.advance(0.01)
    assert outcome(sent) is PublishUnconfirmed
    assert outcome(nacked) is PublishNacked
    assert outcome(lost) is PublishUnconfirmed
    assert outcome(waiting) is PublishOverflow
    assert office.wire.given_up == [sent], "its channel must hear of it"


def test_parked_publish_ends_at_its_deadline_as_not_sent() -> None:
    office = Office()
    office.wire.is_open = False
    parked = office.publish()
    office.clock.advance(TIMEOUT_S)
    assert outcome(parked) is PublishOverflow
    assert "the wire is closed" in str(parked.receipt.exception())


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


def test_confirm_in_backoff_or_after_the_end_changes_nothing_twice() -> None:
    office = Office()
    publishing = office.publish()
    office.clock.advance(TIMEOUT_S)
    office.outbox.refused((publishing,), Unroutable("late"))
    assert outcome(publishing) is PublishUnconfirmed
    assert office.outbox.in_flight == 0
    assert office.outbox.failed == 1


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
    assert office.outbox.waiting == 2
    office.outbox.abandon(first)
    assert office.outbox.waiting == 1
    office.confirm(office.wire.sent[0])
    assert office.wire.sent[-1] is third
    assert office.outbox.waiting == 0


def test_order_is_kept_over_an_outage() -> None:
    office = Office(max_in_flight=5)
    office.wire.is_open = False
    publishings = [office.publish() for _ in range(4)]
    office.wire.is_open = True
    publishings += [office.publish() for _ in range(4)]  # the outbox has not been told yet
    office.outbox.pump()
    office.confirm(*office.wire.sent)
    assert office.wire.sent == publishings


def test_what_could_not_be_sent_goes_before_what_came_later() -> None:
    office = Office()
    first, second = office.publish(), office.publish()
    office.wire.sent.clear()
    office.wire.is_open = False
    later = office.publish()
    first.stage = second.stage = Stage.PARKED  # taken, kept back until something was found out
    office.wire.is_open = True
    office.outbox.put_back((first, second))
    assert office.wire.sent == [first, second, later]


@pytest.mark.parametrize("front_timeout_s", [None, 3600.0], ids=["all-alike", "a-patient-one-in-front"])
def test_long_outage_does_not_fill_the_queues(front_timeout_s: float | None) -> None:
    office = Office(max_in_flight=100)
    office.wire.is_open = False
    office.publish(front_timeout_s)
    most = 0
    for _ in range(600):
        for _ in range(50):
            office.publish(0.5)
        office.clock.advance(1.0)
        most = max(most, office.remembered)
    print(f"{office.outbox.queued} publishes into an outage: at most {most} remembered")
    assert most < 500
    assert office.outbox.in_flight + office.outbox.waiting <= 1


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
        self.office = Office(max_in_flight=max_in_flight, attempts=attempts, retry_unconfirmed=retry)

    @rule(timeout_s=st.none() | st.sampled_from([0.01, 0.3, 20.0]))
    def publish(self, timeout_s: float | None) -> None:
        publishing = self.office.publish(timeout_s)
        self.publishings.append(publishing)
        self.history[publishing] = []

    @rule(is_open=st.booleans())
    def open_or_close(self, is_open: bool) -> None:
        self.office.wire.is_open = is_open
        if is_open:
            self.office.outbox.pump()

    @property
    def under_way(self) -> list[Publishing]:
        return [publishing for publishing in self.publishings if publishing.stage is Stage.SENT]

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), what=st.sampled_from(["confirm", "nack", "give_back", "lose"]))
    def answer(self, data: st.DataObject, what: str) -> None:
        publishing = data.draw(st.sampled_from(self.under_way))
        self.history[publishing].append(what)
        getattr(self.office, what)(publishing)

    @precondition(lambda self: self.publishings)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.office.outbox.abandon(data.draw(st.sampled_from(self.publishings)))

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.6, 6.0]))
    def wait(self, seconds: float) -> None:
        self.office.clock.advance(seconds)
        for publishing in self.office.wire.given_up:
            if publishing not in self.in_doubt:
                self.in_doubt.add(publishing)
                self.history[publishing].append("lose")

    @invariant()
    def counts_add_up(self) -> None:
        outbox = self.office.outbox
        assert outbox.queued == outbox.confirmed_count + outbox.failed + outbox.in_flight + outbox.waiting
        assert outbox.in_flight <= self.office.settings.max_in_flight
        assert outbox.waiting == sum(publishing.stage is Stage.WAITING for publishing in self.publishings)
        assert outbox.waiting == 0 or outbox.is_full

    @invariant()
    def attempts_are_bounded(self) -> None:
        sent = self.office.wire.sent
        assert all(sent.count(publishing) <= self.office.settings.attempts for publishing in sent)

    @invariant()
    def verdicts_are_true(self) -> None:
        for publishing, history in self.history.items():
            if publishing.receipt.done():
                assert outcome(publishing) is truth(history)
            else:
                assert publishing.stage is not Stage.ENDED
                assert publishing.deadline >= self.office.clock.time()

    @invariant()
    def nothing_rests_while_the_wire_is_open(self) -> None:
        if self.office.wire.is_open:
            assert not any(live(lane) for lane in self.office.outbox._parking._lanes)


def truth(history: list[str]) -> type[PublishError] | None:
    """Return what a publish must end in whose attempts ended so."""
    if not history:
        return PublishOverflow
    if history[-1] == "confirm":
        return None
    if "lose" in history:
        return PublishUnconfirmed
    return Unroutable if history[-1] == "give_back" else PublishNacked


def live(queue: deque[Publishing]) -> list[Publishing]:
    return [publishing for publishing in queue if publishing.stage is not Stage.ENDED]


TestOutboxAgainstTheTruth = OutboxAgainstTheTruth.TestCase
TestOutboxAgainstTheTruth.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
