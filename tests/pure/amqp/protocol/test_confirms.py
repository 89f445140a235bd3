"""The confirm ledger against a model of a broker's channel in confirm mode: every publish gets its own answer, once."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mxworker.amqp.protocol.confirms import ConfirmLedger
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.amqp.publishing.routes import Route
from mxworker.errors import InvariantError

ROUTE = Route("", "q", 0)


def publishing(message_id: bytes) -> Publishing:
    return Publishing(ROUTE, message_id, b"", b"", 0.0)


class LedgerAgainstModel(RuleBasedStateMachine):
    """The model counts as RabbitMQ does: publishes from 1, whatever became of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ConfirmLedger()
        self.published: list[Publishing] = []
        self.unanswered: dict[int, Publishing] = {}
        self.dropped: set[int] = set()
        self.answered: list[Publishing] = []
        self.expected: list[Publishing] = []

    @initialize(count=st.integers(0, 5))
    def publish_some(self, count: int) -> None:
        for _ in range(count):
            self.publish()

    @rule()
    def publish(self) -> None:
        added = publishing(b"id-%d" % len(self.published))
        self.ledger.add(added)
        self.published.append(added)
        self.unanswered[len(self.published)] = added

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data(), multiple=st.booleans())
    def answer(self, data: st.DataObject, multiple: bool) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unanswered)))
        covered = [number for number in sorted(self.unanswered) if number == tag or (multiple and number < tag)]
        wanted = [self.unanswered.pop(number) for number in covered if number not in self.dropped]
        for number in covered:
            self.unanswered.pop(number, None)
        assert self.ledger.settle(tag, multiple) == wanted

    @precondition(lambda self: len(self.published) > len(self.unanswered))
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        tag = data.draw(st.integers(1, len(self.published)).filter(lambda number: number not in self.unanswered))
        assert self.ledger.settle(tag, multiple=False) == []

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unanswered)))
        self.dropped.add(tag)
        self.ledger.drop(self.unanswered[tag])

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def return_one(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unanswered)))
        concerned = self.unanswered[tag]
        assert self.ledger.returned(concerned.message_id, "312 NO_ROUTE") is (tag not in self.dropped)
        assert (concerned.return_reason is not None) or tag in self.dropped

    @rule()
    def answer_all(self) -> None:
        wanted = [self.unanswered[number] for number in sorted(self.unanswered) if number not in self.dropped]
        self.unanswered.clear()
        assert self.ledger.settle(0, multiple=True) == wanted

    @invariant()
    def holds_what_is_unanswered(self) -> None:
        assert len(self.ledger) == len(self.unanswered.keys() - self.dropped)


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_second_publish_with_an_id_in_flight_is_an_error() -> None:
    ledger = ConfirmLedger()
    first = publishing(b"same")
    ledger.add(first)
    assert ledger.has_id(b"same")
    with pytest.raises(InvariantError):
        ledger.add(publishing(b"same"))
    assert ledger.settle(1, multiple=False) == [first]
    assert not ledger.has_id(b"same")
    ledger.add(publishing(b"same"))


def test_tag_beyond_the_last_publish_concerns_all_there_are() -> None:
    ledger = ConfirmLedger()
    first = publishing(b"1")
    ledger.add(first)
    assert ledger.settle(10**18, multiple=True) == [first]


def test_end_hands_out_the_rest_once_and_in_order() -> None:
    ledger = ConfirmLedger()
    added = [publishing(b"%d" % number) for number in range(4)]
    for one in added:
        ledger.add(one)
    ledger.settle(2, multiple=False)
    assert ledger.end() == [added[0], added[2], added[3]]
    assert ledger.end() == []


def test_work_for_a_confirm_does_not_grow_with_what_was_confirmed() -> None:
    ledger = ConfirmLedger()
    started_s = time.thread_time()
    for number in range(1, 100_001):
        ledger.add(publishing(b"%d" % number))
        ledger.settle(number, multiple=True)
    assert time.thread_time() - started_s < 5, "generous: quadratic work would take minutes"


def test_work_for_a_multiple_confirm_does_not_grow_with_what_was_confirmed_one_by_one() -> None:
    ledger = ConfirmLedger()
    for number in range(1, 500_001):
        ledger.add(publishing(b"%d" % number))
        ledger.settle(number, multiple=False)
    last = publishing(b"last")
    ledger.add(last)
    started_s = time.thread_time()
    assert ledger.settle(500_001, multiple=True) == [last]
    assert time.thread_time() - started_s < 0.01, "looking at each earlier tag takes some 30 ms"
