"""When a batch is complete: by count, by bytes, by the age of its first delivery, on a clock turned by hand."""

from __future__ import annotations

from typing import Any

from mxworker.api.delivery import Delivery
from mxworker.api.registration import Batch
from mxworker.worker.handling.batching import Gathered, Gatherer
from tests.harness.hand_clock import HandClock
from tests.harness.nowhere import Nowhere

WAIT_S = 0.25
SIZE = 10
MAX_BYTES = 1000


def delivery(tag: int, size_bytes: int = 1) -> Delivery:
    return Delivery(b"x" * size_bytes, b"\0\0", b"\0\0", False, tag, Nowhere())


class Gathering:
    """A gatherer on a clock turned by hand, and the batches it handed on, each as the tags in it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_busy = False
        self.waiting: list[Gathered] = []
        self.clock: Any = HandClock()
        self.gatherer = Gatherer(Batch(SIZE, WAIT_S, MAX_BYTES), self.clock, self._note)

    def _note(self, gathered: Gathered) -> None:
        if self.is_busy:
            self.waiting.append(gathered)
        else:
            self._start(gathered)

    def start_waiting(self) -> None:
        for gathered in self.waiting:
            self._start(gathered)
        self.waiting.clear()

    def _start(self, gathered: Gathered) -> None:
        gathered.is_closed = True
        self.batches.append([delivery.delivery_tag for delivery in gathered.deliveries])

    def add(self, *tags: int, size_bytes: int = 1) -> None:
        for tag in tags:
            self.gatherer.add(delivery(tag, size_bytes))


def test_batch_is_complete_by_count_and_at_once() -> None:
    gathering = Gathering()
    gathering.add(*range(1, 26))
    assert gathering.batches == [list(range(1, 11)), list(range(11, 21))]
    assert gathering.gatherer.waiting == 5


def test_batch_is_complete_when_its_first_delivery_is_old_enough_however_young_the_last_one_is() -> None:
    gathering = Gathering()
    gathering.add(1)
    for tag in (2, 3, 4):
        gathering.clock.advance(0.08)
        gathering.add(tag)
    assert gathering.batches == []
    gathering.clock.advance(0.011)
    assert gathering.batches == [[1, 2, 3, 4]]
    assert gathering.gatherer.waiting == 0


def test_age_counts_from_the_first_delivery_of_this_batch() -> None:
    gathering = Gathering()
    gathering.add(1)
    gathering.clock.advance(0.2)
    gathering.add(*range(2, 12))  # the first batch is full, and 11 begins the next
    assert gathering.batches == [list(range(1, 11))]
    gathering.clock.advance(0.2)
    assert len(gathering.batches) == 1, "the timer of the first batch rang for the second"
    gathering.clock.advance(0.051)
    assert gathering.batches[1:] == [[11]]


def test_nothing_gathered_hands_nothing_on() -> None:
    gathering = Gathering()
    gathering.add(1)
    gathering.gatherer.complete()
    gathering.gatherer.complete()
    gathering.clock.advance(10.0)
    assert gathering.batches == [[1]]


def test_batch_that_was_taken_is_not_handed_on_and_its_timer_rings_for_no_other() -> None:
    gathering = Gathering()
    gathering.add(1, 2)
    gathering.clock.advance(0.2)
    taken = gathering.gatherer.take()
    assert taken is not None
    assert [delivery.delivery_tag for delivery in taken.deliveries] == [1, 2]
    assert gathering.gatherer.take() is None
    gathering.add(3)
    gathering.clock.advance(0.2)
    assert gathering.batches == []
    gathering.clock.advance(0.051)
    assert gathering.batches == [[3]]


def test_stopped_gatherer_hands_on_what_it_has_and_gathers_no_more() -> None:
    gathering = Gathering()
    gathering.add(1, 2)
    gathering.gatherer.stop()
    gathering.add(3, 4)
    assert gathering.batches == [[1, 2], [3], [4]]
    assert gathering.gatherer.waiting == 0


def test_batch_is_complete_when_its_bodies_have_the_bytes() -> None:
    gathering = Gathering()
    gathering.add(1, 2, 3, size_bytes=250)
    assert gathering.batches == []
    gathering.add(4, size_bytes=250)
    assert gathering.batches == [[1, 2, 3, 4]]


def test_body_that_would_make_the_batch_too_large_begins_the_next() -> None:
    gathering = Gathering()
    gathering.add(1, 2, size_bytes=400)
    gathering.add(3, size_bytes=201)
    assert gathering.batches == [[1, 2]]
    assert gathering.gatherer.waiting == 1
    gathering.clock.advance(WAIT_S + 0.001)
    assert gathering.batches == [[1, 2], [3]]


def test_body_larger_than_a_whole_batch_is_a_batch_of_its_own() -> None:
    gathering = Gathering()
    gathering.add(1)
    gathering.add(2, size_bytes=MAX_BYTES + 1)
    gathering.add(3)
    assert gathering.batches == [[1], [2]]
    gathering.clock.advance(WAIT_S + 0.001)
    assert gathering.batches == [[1], [2], [3]]


def test_batch_of_one_waits_for_nothing() -> None:
    batches: list[Gathered] = []
    clock: Any = HandClock()
    gatherer = Gatherer(Batch(1, WAIT_S, MAX_BYTES), clock, batches.append)
    gatherer.add(delivery(1))
    gatherer.add(delivery(2))
    assert [len(gathered.deliveries) for gathered in batches] == [1, 1]


def test_batch_that_is_old_enough_grows_until_somebody_has_time_for_it() -> None:
    gathering = Gathering()
    gathering.is_busy = True
    for tag in (1, 2, 3):
        gathering.add(tag)
        gathering.clock.advance(2 * WAIT_S)
    assert gathering.gatherer.waiting == 0, "they are with who is busy"
    gathering.add(*range(4, 14))
    gathering.clock.advance(2 * WAIT_S)
    gathering.start_waiting()
    assert gathering.batches == [list(range(1, 11)), [11, 12, 13]]
    gathering.is_busy = False
    gathering.add(14)
    assert gathering.gatherer.waiting == 1, "a batch that was started takes no more"
