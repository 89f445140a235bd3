"""The ack ledger against a model of a broker's channel: everything arrives as asked, and never a 406."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pamqp import base, commands
from pamqp import frame as frames

from mxworker.amqp.protocol.acks import AckLedger
from mxworker.errors import InvariantError

CHANNEL = 3
ACKED, REJECTED, REQUEUED, GIVEN_BACK = "acked", "rejected", "requeued", "given back"


class PreconditionFailed(Exception):
    """What a broker answers 406 to."""


class BrokerChannel:
    """The broker's side of one channel, as RabbitMQ keeps it (rabbit_channel:collect_acks)."""

    def __init__(self) -> None:
        self.unsettled: list[int] = []
        self.outcomes: dict[int, str] = {}

    def take(self, written: bytes) -> int:
        """Process what a client wrote; return how many frames that were."""
        count = 0
        while written:
            used, channel, method = frames.unmarshal(written)
            assert channel == CHANNEL
            assert isinstance(method, base.Frame)
            self._settle(method)
            written = written[used:]
            count += 1
        return count

    def _settle(self, method: base.Frame) -> None:
        match method:
            case commands.Basic.Ack():
                tags, outcome = self._covered(method.delivery_tag, method.multiple), ACKED
            case commands.Basic.Reject():
                tags, outcome = self._covered(method.delivery_tag), REQUEUED if method.requeue else REJECTED
            case commands.Basic.Nack(multiple=False, requeue=True):
                tags, outcome = self._covered(method.delivery_tag), GIVEN_BACK
            case _:
                raise AssertionError(method)
        for tag in tags:
            self.unsettled.remove(tag)
            self.outcomes[tag] = outcome

    def _covered(self, tag: int | None, multiple: bool = False) -> list[int]:
        if tag not in self.unsettled:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        return [unsettled for unsettled in self.unsettled if unsettled <= tag] if multiple else [tag]


class LedgerAgainstBroker(RuleBasedStateMachine):
    """Deliveries come, are settled in any order, and are flushed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = BrokerChannel()
        self.ledger = AckLedger(CHANNEL)
        self.running: list[int] = []
        self.asked: dict[int, str] = {}
        self.flushed: dict[int, str] = {}
        self.next_tag = 1

    @initialize()
    def begin(self) -> None:
        assert self.ledger.flush() == b""

    @rule(count=st.integers(1, 12))
    def deliver(self, count: int) -> None:
        for tag in range(self.next_tag, self.next_tag + count):
            self.broker.unsettled.append(tag)
            self.ledger.deliver(tag)
            self.running.append(tag)
        self.next_tag += count

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from([ACKED, ACKED, ACKED, REJECTED, REQUEUED, GIVEN_BACK]))
    def settle_one(self, data: st.DataObject, outcome: str) -> None:
        self._settle(data.draw(st.sampled_from(self.running)), outcome)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def ack_a_prefix(self, data: st.DataObject) -> None:
        for tag in list(self.running[: data.draw(st.integers(1, len(self.running)))]):
            self._settle(tag, ACKED)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), outcome=st.sampled_from([ACKED, REJECTED, REQUEUED, GIVEN_BACK]))
    def settle_twice(self, data: st.DataObject, outcome: str) -> None:
        with pytest.raises(InvariantError, match="settled already"):
            self._ask(data.draw(st.sampled_from(sorted(self.asked))), outcome)

    @rule(beyond=st.integers(0, 5), outcome=st.sampled_from([ACKED, REJECTED, GIVEN_BACK]))
    def settle_what_was_never_delivered(self, beyond: int, outcome: str) -> None:
        with pytest.raises(InvariantError):
            self._ask(self.next_tag + beyond, outcome)

    @rule()
    def flush(self) -> None:
        self.broker.take(self.ledger.flush())
        self.flushed = dict(self.asked)

    def _settle(self, tag: int, outcome: str) -> None:
        self._ask(tag, outcome)
        self.running.remove(tag)
        self.asked[tag] = outcome

    def _ask(self, tag: int, outcome: str) -> None:
        match outcome:
            case "acked":
                self.ledger.ack(tag)
            case "given back":
                self.ledger.give_back(tag)
            case _:
                self.ledger.reject(tag, requeue=outcome == REQUEUED)

    @invariant()
    def unsettled_is_what_runs(self) -> None:
        assert self.ledger.unsettled == len(self.running)

    @invariant()
    def what_was_flushed_arrived_as_asked_and_nothing_else_did(self) -> None:
        assert self.broker.outcomes == self.flushed

    def teardown(self) -> None:
        self.flush()
        self.unsettled_is_what_runs()
        self.what_was_flushed_arrived_as_asked_and_nothing_else_did()
        assert self.broker.unsettled == self.running
        assert self.ledger.flush() == b""


TestLedgerAgainstBroker = LedgerAgainstBroker.TestCase
TestLedgerAgainstBroker.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def delivered(count: int) -> tuple[AckLedger, BrokerChannel]:
    """Return a ledger and the broker's channel after `count` deliveries."""
    ledger, broker = AckLedger(CHANNEL), BrokerChannel()
    for tag in range(1, count + 1):
        ledger.deliver(tag)
        broker.unsettled.append(tag)
    return ledger, broker


def test_a_finished_prefix_is_one_frame() -> None:
    ledger, broker = delivered(100)
    for tag in reversed(range(1, 101)):
        ledger.ack(tag)
    assert broker.take(ledger.flush()) == 1
    assert broker.outcomes == dict.fromkeys(range(1, 101), ACKED)


def test_one_slow_delivery_holds_nothing_back() -> None:
    ledger, broker = delivered(10)
    for tag in (1, 2, 3, 5, 6, 7, 8, 9, 10):
        ledger.ack(tag)
    assert broker.take(ledger.flush()) == 1 + 6
    assert broker.unsettled == [4]


def test_prefix_that_ends_in_what_was_acked_before_is_not_named() -> None:
    """After 2 and 3 were acked alone, acking 1 completes the prefix 1-3, but only 1 may be named."""
    ledger, broker = delivered(3)
    ledger.ack(2)
    ledger.ack(3)
    broker.take(ledger.flush())
    ledger.ack(1)
    assert broker.take(ledger.flush()) == 1
    assert broker.unsettled == []


def test_reject_inside_the_prefix_is_written_before_the_multiple_ack() -> None:
    ledger, broker = delivered(3)
    ledger.ack(3)
    ledger.ack(1)
    ledger.reject(2, requeue=False)
    assert broker.take(ledger.flush()) == 2
    assert broker.outcomes == {1: ACKED, 2: REJECTED, 3: ACKED}


def test_acks_of_a_long_life_cost_the_same_each() -> None:
    """The search for the first unsettled tag does not start over: 0.1 s here, 10 s if it did."""
    ledger, broker = delivered(1)
    started_at = time.thread_time()
    for tag in range(2, 20_001):
        ledger.deliver(tag)
        ledger.ack(tag - 1)
        written = ledger.flush()
    assert time.thread_time() - started_at < 3
    broker.unsettled = [19_999]
    assert broker.take(written) == 1


def test_double_settlement_leaves_the_ledger_as_it_was() -> None:
    ledger, broker = delivered(2)
    ledger.ack(1)
    for settle in (ledger.ack, ledger.give_back, lambda tag: ledger.reject(tag, requeue=True)):
        with pytest.raises(InvariantError, match="delivery 1 on channel 3 is settled already"):
            settle(1)
    assert ledger.unsettled == 1
    assert broker.take(ledger.flush()) == 1
    assert broker.outcomes == {1: ACKED}
