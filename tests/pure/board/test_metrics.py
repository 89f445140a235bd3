"""The metrics of a slot are kept when its worker is replaced, are found again by name, and any bytes are read."""

import json
import os
import time
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker.board.layout import Word
from mxworker.board.metric_reading import former
from mxworker.board.metric_rows import MetricRows, observe
from mxworker.board.metric_values import ConsumerMetrics, Histogram, ServiceMetrics
from mxworker.board.metrics import fold, outcomes
from mxworker.board.metrics_layout import (
    BOUNDS_S,
    EXCHANGES,
    FAILURE_TYPES,
    FAILURES,
    METRICS_BYTES,
    PROCESS_GAUGES,
    ROW_GAUGES,
    ROWS,
    ExchangeWord,
    Outcome,
    ProcessSeconds,
    ProcessWord,
    RowSeconds,
    RowWord,
)
from mxworker.board.page import Board


def board_of(slots: int) -> Board:
    board = Board(slots)
    for slot in board.slots:
        slot.prepare(1, False, 1)
    return board


def rows_of(board: Board, slot: int = 1) -> MetricRows:
    return MetricRows(board.slot(slot).metrics)


def consumer(board: Board, handler: str = "order", queue: str = "orders") -> ConsumerMetrics:
    (found,) = [each for each in fold(board).consumers if (each.queue, each.handler) == (queue, handler)]
    return found


def test_a_board_without_workers_has_no_metrics() -> None:
    assert fold(Board(3)) == ServiceMetrics((), (), (), ())


# ---- kept


def test_counters_stay_and_gauges_are_cleared_when_a_worker_is_replaced() -> None:
    board = board_of(1)
    rows = rows_of(board)
    row = rows.consumer("orders", "order")
    row.words[Outcome.ACK] = 7
    row.seconds[RowSeconds.BUSY] = 3
    row.seconds[RowSeconds.LAST_DELIVERY_AT] = 5
    row.seconds[RowSeconds.OBJECTIVE] = 60
    row.write_queue_facts(9, 2, None, 0, None, 123.5)
    row.failed("ValueError")
    for gauge in ROW_GAUGES:
        row.words[gauge] = 4
    observe(row.words, RowWord.DURATION, row.seconds, RowSeconds.DURATION, 1)
    rows.process_seconds[ProcessSeconds.CPU] = 6
    rows.process_seconds[ProcessSeconds.LOOP_LAG] = 1
    for gauge in PROCESS_GAUGES:
        rows.process[gauge] = 1
    rows.exchange("shop")[ExchangeWord.CONFIRMED] += 1
    rows.exchange("shop")[ExchangeWord.BYTES_SENT] += 10
    board.slot(1).prepare(2, False, 1)
    metrics = fold(board)
    (kept,) = metrics.consumers
    assert (kept.outcomes["ack"], kept.busy_s, kept.last_delivery_unix_s) == (7, 3, 5)
    assert (kept.failures, kept.duration) == ({"ValueError": 1}, Histogram.of(1))
    assert (kept.slots, kept.in_flight, kept.prefetched, kept.stuck, kept.paused, kept.objective_s) == (
        *(0, 0, 0, 0, 0),
        None,
    )
    assert (metrics.queues[0].ready, metrics.queues[0].retry_waiting, metrics.queues[0].looked_at_unix_s) == (
        *(9, None),
        123.5,
    )
    assert (metrics.exchanges[0].outcomes["confirmed"], metrics.exchanges[0].bytes_sent) == (1, 10)
    (process,) = metrics.processes
    assert (process.cpu_s, process.loop_lag_s, process.outcomes["ack"]) == (6, 0, 7)
    assert set(process.channels.values()) == {0}


def test_gauges_of_a_worker_that_has_ended_are_cleared() -> None:
    board = board_of(1)
    rows_of(board).consumer("orders", "order").words[RowWord.IN_FLIGHT] = 3
    board.slot(1).words[Word.RSS_BYTES] = 50_000_000
    board.slot(1).clear_gauges()
    assert consumer(board).in_flight == 0
    assert fold(board).processes[0].rss_bytes == 0


def test_rows_are_found_again_by_name_whatever_the_order_of_the_handlers() -> None:
    board = board_of(1)
    for index, name in enumerate(["a", "b", "c"]):
        rows_of(board).consumer("orders", name).words[Outcome.ACK] += index
    board.slot(1).prepare(2, False, 1)
    for index, name in enumerate(["c", "new", "a", "b"]):
        rows_of(board).consumer("orders", name).words[Outcome.ACK] += 10 * (index + 1)
    acked = {each.handler: each.outcomes["ack"] for each in fold(board).consumers}
    assert acked == {"a": 30, "b": 41, "c": 12, "new": 20}
    assert rows_of(board).process[ProcessWord.ROWS_USED] == 4, "each has one row, however often it is found again"


def test_the_same_handler_of_two_queues_has_two_rows() -> None:
    board = board_of(1)
    rows_of(board).consumer("one", "handler").words[Outcome.ACK] = 1
    rows_of(board).consumer("two", "handler").words[Outcome.ACK] = 2
    assert [(each.queue, each.outcomes["ack"]) for each in fold(board).consumers] == [("one", 1), ("two", 2)]


def test_handlers_beyond_the_last_row_share_one() -> None:
    board = board_of(1)
    for number in range(ROWS + 3):
        row = rows_of(board).consumer(f"queue-{number:02}", "handler")
        row.words[Outcome.ACK] += 1
        row.failed("KeyError")
    consumers = fold(board).consumers
    assert len(consumers) == ROWS + 1
    (other,) = [each for each in consumers if each.queue == "other"]
    assert (other.handler, other.outcomes["ack"], other.failures) == ("other", 3, {"KeyError": 3})
    assert sum(each.outcomes["ack"] for each in consumers) == ROWS + 3


# ---- handlers of former code


def reloaded(board: Board, generation: int, names: list[str], slot: int = 1) -> MetricRows:
    """Let the code of this generation run in a slot; each of its handlers acks one message and fails once."""
    board.slot(slot).prepare(generation, False, 1)
    rows = rows_of(board, slot)
    rows.claim((("orders", name) for name in names), generation, lambda: former(board.used))
    for name in names:
        row = rows.consumer("orders", name)
        row.words[RowWord.SLOTS] = 1
        row.words[Outcome.ACK] += 1
        row.failed("ValueError")
        row.seconds[RowSeconds.BUSY] += 0.5
    return rows


def shown(board: Board) -> dict[str, int]:
    return {each.handler: each.outcomes["ack"] for each in fold(board).consumers}


def test_handler_that_two_reloads_did_not_have_is_not_shown_any_more() -> None:
    board = board_of(2)
    for generation, names in enumerate((["old", "same"], ["new", "same"], ["newer", "same"]), 1):
        for slot in (1, 2):
            reloaded(board, generation, names, slot)
            if (generation, slot) == (3, 1):
                assert shown(board) == {"old": 2, "new": 2, "newer": 1, "same": 5}, "while some have the code before"
        if generation == 2:
            assert shown(board) == {"old": 2, "new": 2, "same": 4}, "its last counts can still be scraped"
    assert shown(board) == {"new": 2, "newer": 2, "same": 6}
    for slot in board.slots:
        slot.clear_gauges()
    assert shown(board) == {"old": 2, "new": 2, "newer": 2, "same": 6}, "nobody says which code is the present one"


def roll(board: Board, generation: int, names: list[str]) -> MetricRows:
    """Start a worker with new code beside the one with the code before, in the other of two slots, and end that."""
    slot = 1 + generation % 2
    rows = reloaded(board, generation, names, slot)
    board.slot(3 - slot).clear_gauges()
    return rows


def test_rows_of_former_handlers_are_given_to_new_ones_and_the_slot_keeps_its_counts() -> None:
    board = board_of(2)
    generations = [[f"{generation}-{number}" for number in range(ROWS // 3)] for generation in range(1, 12)]
    for generation, names in enumerate(generations, 1):
        rows = roll(board, generation, ["same", *names])
        assert all(rows.consumer("orders", name).is_own for name in names)
        before = set(generations[generation - 2]) if generation > 1 else set()
        assert shown(board).keys() == {"same", *names} | before
        assert shown(board)["same"] == generation
        assert all(consumer(board, name).failures == {"ValueError": 1} for name in names)
    acked = len(generations) * (ROWS // 3 + 1)
    assert sum(outcomes(slot.metrics)[Outcome.ACK] for slot in board.slots) == acked
    processes = fold(board).processes
    assert sum(process.outcomes["ack"] for process in processes) == acked
    assert sum(process.busy_s for process in processes) == acked / 2
    acked, saved = outcomes(board.slot(2).metrics)[Outcome.ACK], rows.saved()
    board.slot(2).metrics[:] = bytes(METRICS_BYTES)
    rows.restore(saved)
    assert outcomes(board.slot(2).metrics)[Outcome.ACK] == acked


def test_rows_of_the_present_code_and_the_one_before_are_not_given_to_others() -> None:
    board = board_of(2)
    first, second = ([f"{generation}-{number}" for number in range(ROWS)] for generation in (1, 2))
    roll(board, 1, first)
    roll(board, 2, second)
    rows = roll(board, 3, ["third"])
    assert not rows.consumer("orders", "third").is_own
    assert shown(board).keys() == {*second, "other"}
    assert not roll(board, 4, ["fourth"]).consumer("orders", "fourth").is_own
    assert shown(board).keys() == {"other"}
    assert roll(board, 5, ["fifth"]).consumer("orders", "fifth").is_own


def test_exchanges_beyond_the_last_row_share_one() -> None:
    board = board_of(1)
    rows = rows_of(board)
    for number in [*range(3 * EXCHANGES), *range(EXCHANGES)]:
        rows.exchange(f"exchange-{number:03}")[ExchangeWord.RETURNED] += 1
    exchanges = {each.exchange: each.outcomes["returned"] for each in fold(board).exchanges}
    assert len(exchanges) == EXCHANGES + 1
    assert exchanges["other"] == 2 * EXCHANGES
    assert sum(exchanges.values()) == 4 * EXCHANGES
    assert {exchanges[f"exchange-{number:03}"] for number in range(EXCHANGES)} == {2}


def test_types_of_errors_beyond_the_fiftieth_are_counted_together() -> None:
    board = board_of(2)
    for slot in (1, 2):
        row = rows_of(board, slot).consumer("orders", "order")
        for number in range(FAILURE_TYPES + 10):
            row.failed(f"Error{slot}{number}")
            row.failed(f"Error{slot}{number}")
        row.failed("Common")
        row.failed(f"Error{slot}0")
    failures = consumer(board).failures
    assert len(failures) == FAILURE_TYPES + 1
    assert failures["Error10"] == failures["Error20"] == 3
    assert sum(failures.values()) == 2 * (2 * (FAILURE_TYPES + 10) + 2)


def test_failures_of_all_rows_fit_or_are_counted_as_other() -> None:
    board = board_of(1)
    rows = rows_of(board)
    for number in range(ROWS):
        row = rows.consumer(f"queue-{number:02}", "handler")
        for kind in range(FAILURE_TYPES):
            row.failed(f"Error{kind}")
    consumers = fold(board).consumers
    assert sum(sum(each.failures.values()) for each in consumers) == ROWS * FAILURE_TYPES
    assert rows.process[ProcessWord.FAILURES_USED] == FAILURES
    assert consumers[-1].failures == {"other": FAILURE_TYPES}


def test_a_failure_has_the_time_at_which_it_came_last() -> None:
    board = board_of(1)
    before = time.time()
    rows_of(board).consumer("orders", "order").failed("ValueError")
    assert before <= consumer(board).failed_at["ValueError"] <= time.time()


# ---- summed up


def test_values_are_summed_up_over_slots_by_name() -> None:
    board = board_of(3)
    for slot, names in enumerate([["a", "b"], ["b", "a"], ["b"]], start=1):
        for name in names:
            row = rows_of(board, slot).consumer("orders", name)
            row.words[Outcome.RETRY] = slot
            row.words[RowWord.IN_FLIGHT] = 10 * slot
            row.words[RowWord.SLOTS] = 32
            row.words[RowWord.IS_PAUSED] = slot == 1
            row.words[RowWord.IS_CONSUMED] = slot != 1
            row.seconds[RowSeconds.LAST_DELIVERY_AT] = slot
            row.seconds[RowSeconds.OBJECTIVE] = 2
            observe(row.words, RowWord.WAIT, row.seconds, RowSeconds.WAIT, slot)
    one, two = fold(board).consumers
    assert (one.outcomes["retry"], one.in_flight, one.slots, one.last_delivery_unix_s) == (3, 30, 64, 2)
    assert (two.outcomes["retry"], two.in_flight, two.slots, two.last_delivery_unix_s) == (6, 60, 96, 3)
    assert (two.wait, two.objective_s, two.paused, two.is_paused) == (Histogram.of(1, 2, 3), 2, 1, False)
    assert (one.consuming, two.consuming) == (1, 2)
    assert [process.in_flight for process in fold(board).processes] == [20, 40, 30]


def test_sums_of_hundreds_of_slots_are_exact_and_stay_in_their_words() -> None:
    board = board_of(300)
    for slot in range(1, 301):
        words = rows_of(board, slot).consumer("orders", "order").words
        words[Outcome.ACK] = words[Outcome.RETRY] = 2**56 - 1  # the most that counts
        words[Outcome.REJECT] = 2**50 + slot
    found = consumer(board).outcomes
    assert (found["ack"], found["requeue"], found["retry"]) == (2**63 - 1, 0, 2**63 - 1), "JSON holds no more"
    assert (found["reject"], found["decode_error"]) == (300 * 2**50 + sum(range(301)), 0)


def test_a_queue_is_paused_when_it_is_paused_in_every_worker_that_lives() -> None:
    board = board_of(3)
    for slot in (1, 2, 3):
        words = rows_of(board, slot).consumer("orders", "order").words
        words[RowWord.SLOTS] = words[RowWord.IS_PAUSED] = 1
    board.slot(2).clear_gauges()
    assert (consumer(board).paused, consumer(board).is_paused) == (2, True)


def test_the_newest_facts_of_a_queue_count() -> None:
    board = board_of(2)
    rows_of(board, 1).consumer("orders", "order").write_queue_facts(5, 1, 2, 3, 4, 200.0)
    rows_of(board, 2).consumer("orders", "order").write_queue_facts(6, 1, None, 0, None, 100.0)
    rows_of(board, 2).consumer("never-looked-at", "order")
    (facts,) = fold(board).queues
    assert asdict(facts) == {
        "queue": "orders",
        "ready": 5,
        "consumers": 1,
        "retry_waiting": 2,
        "dead_letters": 3,
        "quarantined": 4,
        "looked_at_unix_s": 200.0,
    }


def test_facts_of_queues_that_the_code_no_longer_has_are_left_out() -> None:
    board = board_of(1)
    rows = rows_of(board)
    present, former = rows.consumer("orders", "order"), rows.consumer("former", "order")
    for row in (present, former):
        row.write_queue_facts(5, 1, 2, 3, 4, 200.0)
    present.words[RowWord.SLOTS] = 8
    assert [facts.queue for facts in fold(board).queues] == ["orders"]
    board.slot(1).clear_gauges()  # no worker lives, so nobody knows what the next one consumes
    assert [facts.queue for facts in fold(board).queues] == ["former", "orders"]


# ---- any bytes


@pytest.mark.parametrize("word", [2**56, 2**64 - 1])
def test_number_that_nobody_can_have_counted_to_is_left_out(word: int) -> None:
    board = board_of(2)
    for slot, acked in ((1, word), (2, 3)):
        words = rows_of(board, slot).consumer("orders", "order").words
        words[Outcome.ACK], words[Outcome.REQUEUE], words[RowWord.IN_FLIGHT] = acked, 5, 2
        rows_of(board, slot).exchange("shop")[ExchangeWord.CONFIRMED] = acked
    metrics = fold(board)
    (found,) = metrics.consumers
    assert (found.outcomes["ack"], found.outcomes["requeue"], found.in_flight) == (3, 10, 4)
    assert metrics.exchanges[0].outcomes["confirmed"] == 3
    assert [process.outcomes["ack"] for process in metrics.processes] == [0, 3]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e16])
def test_time_that_is_none_is_left_out(seconds: float) -> None:
    board = board_of(2)
    for slot, busy_s in ((1, seconds), (2, 3.0)):
        row = rows_of(board, slot).consumer("orders", "order")
        row.seconds[RowSeconds.BUSY], row.seconds[RowSeconds.WAIT] = busy_s, 1.5
    assert (consumer(board).busy_s, consumer(board).wait.sum_s) == (3, 3)


@given(st.binary(min_size=1, max_size=4096), st.integers(0, METRICS_BYTES - 1))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read(noise: bytes, at: int) -> None:
    board = board_of(2)
    rows_of(board, 2).consumer("orders", "order").words[Outcome.ACK] = 3
    area = board.slot(1).metrics
    area[at : at + len(noise)] = noise[: METRICS_BYTES - at]
    rows_of(board).consumer("mine", "too").failed("ValueError")
    assert consumer(board).outcomes["ack"] == 3
    json.dumps([asdict(each) for each in fold(board).consumers], allow_nan=False)


def test_random_bytes_everywhere_do_no_harm_to_other_slots() -> None:
    board = board_of(2)
    rows_of(board, 2).consumer("orders", "order").words[Outcome.ACK] = 3
    board.slot(1).metrics[:] = os.urandom(METRICS_BYTES)
    metrics = fold(board)
    assert consumer(board).outcomes["ack"] == 3
    assert all(value < 2**63 for each in metrics.consumers for value in each.outcomes.values())
    rows_of(board).clear_gauges()
    assert fold(board).processes[0].in_flight == 0


# ---- histograms


@pytest.mark.parametrize(
    ("value_s", "bucket"), [(-1, 0), (0, 0), (0.001, 0), (0.0011, 1), (0.3, 8), (300, 17), (300.1, 18), (1e6, 18)]
)
def test_a_value_on_a_bound_belongs_below_it(value_s: float, bucket: int) -> None:
    row = rows_of(board_of(1)).consumer("orders", "order")
    observe(row.words, RowWord.AGE, row.seconds, RowSeconds.AGE, value_s)
    assert row.words[RowWord.AGE : RowWord.END_TO_END].tolist().index(1) == bucket
    assert row.seconds[RowSeconds.AGE] == max(0, value_s)
    assert Histogram.of(value_s).counts[bucket] == 1


values = st.lists(st.floats(0, 1000, allow_nan=False), max_size=50)


@given(values, values)
def test_histograms_are_added_and_subtracted(first: list[float], later: list[float]) -> None:
    both = Histogram.of(*first) + Histogram.of(*later)
    assert both.counts == Histogram.of(*first, *later).counts
    assert both.sum_s == pytest.approx(sum(first) + sum(later))
    since = both - Histogram.of(*first)
    assert since.counts == Histogram.of(*later).counts
    assert since.sum_s == pytest.approx(sum(later), abs=1e-6)


@given(values.filter(bool), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_value(found: list[float], q: float) -> None:
    histogram = Histogram.of(*found)
    exact = sorted(found)[min(len(found) - 1, max(0, -int(-q * len(found) // 1) - 1))]
    estimate = histogram.quantile(q)
    assert estimate is not None
    bucket = next((index for index, bound in enumerate(BOUNDS_S) if exact <= bound), len(BOUNDS_S))
    low = 0 if bucket == 0 else BOUNDS_S[bucket - 1]
    high = BOUNDS_S[min(bucket, len(BOUNDS_S) - 1)]
    assert low - 1e-9 <= estimate <= high + 1e-9


def test_quantiles_are_interpolated_between_bounds() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram.of(*[0.2] * 100).quantile(0.5) == pytest.approx(0.175)
    assert Histogram.of(*[0.0] * 90, *[0.2] * 10).quantile(0.95) == pytest.approx(0.175)
    assert Histogram.of(1000.0).quantile(0.5) == 300
    assert Histogram.of(0.02).quantile(1) == 0.025


def test_a_histogram_that_has_fallen_counts_as_unchanged() -> None:
    assert (Histogram.of(1) - Histogram.of(1, 2)).count == 0
