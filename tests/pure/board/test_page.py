import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.layout import (
    CLEARINGS,
    FEWER_PLACES,
    HANDLER_NAMES,
    IN_FLIGHT_ENTRIES,
    MESSAGE_ID_BYTES,
    NAME_BYTES,
    NOTE_BYTES,
    PLACES,
    QUEUE_BYTES,
    SLOTS_WITH_ALL_PLACES,
    Given,
    Word,
)
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import ROWS, ExchangeWord, Outcome
from mxworker.board.page import Board
from mxworker.board.reading import InFlight
from mxworker.board.slot import NO_ENTRY
from mxworker.config.bounds import MAX_WORKERS
from mxworker.system.printable import by_line

MIB = 1024 * 1024


def test_new_board_is_vacant() -> None:
    board = Board(3)
    assert [slot.number for slot in board.slots] == [1, 2, 3]
    assert all(slot.told.state is WorkerState.VACANT for slot in board.slots)
    assert not board.ever_ready


def test_slots_do_not_overlap() -> None:
    board = Board(3)
    middle = board.slot(2)
    for word in Word:
        middle.words[word] = 2**64 - 1 if word is not Word.STATE else WorkerState.READY
    middle.write_note("n" * NOTE_BYTES)
    for index in range(HANDLER_NAMES):
        middle.name_handler(index, "h" * NAME_BYTES, "q" * QUEUE_BYTES)
    for tag in range(IN_FLIGHT_ENTRIES):
        middle.enter(0, tag, 1, b"m" * MESSAGE_ID_BYTES, tag)
    for other in (board.slot(1), board.slot(3)):
        assert all(value == 0 for value in other.words)
        assert other.told.note == ""
        assert other.told.in_flight() == []


def test_every_word_has_its_own_place() -> None:
    slot = Board(1).slot(1)
    for value, word in enumerate(Word, start=1):
        slot.words[word] = value
    assert [slot.words[word] for word in Word] == list(range(1, len(Word) + 1))


def test_prepare_keeps_what_belongs_to_the_slot_and_clears_what_belonged_to_the_process() -> None:
    board = Board(1)
    slot = board.slot(1)
    slot.words[Word.EVER_READY] = 1
    slot.words[Word.PID] = 4711
    slot.write_state(WorkerState.READY)
    slot.write_note("consuming")
    slot.name_handler(0, "orders", "shop.orders")
    slot.enter(0, 1, 1, b"id", 1)
    slot.prepare(generation=2, is_on_trial=False, boot_deadline_ns=99)
    assert (slot.given[Given.GENERATION], slot.words[Word.PID]) == (2, 0)
    assert slot.ever_ready
    assert (slot.told.state, slot.told.note, slot.told.in_flight(), slot.deadline_ns) == (
        WorkerState.VACANT,
        "",
        [],
        99,
    )


def test_beat_moves_the_deadline() -> None:
    slot = Board(1).slot(1)
    slot.prepare(1, False, 10)
    slot.beat(20)
    assert slot.deadline_ns == 20


def test_board_is_ever_ready_when_the_master_says_so() -> None:
    board = Board(3)
    for number in (1, 2):
        board.slot(number).prepare(1, False, 0)
    board.slot(2).words[Word.EVER_READY] = 1
    assert not board.ever_ready, "a worker alone cannot say it for all"
    board.note_ever_ready()
    assert board.ever_ready
    assert not board.slot(1).ever_ready


def test_slots_without_a_process_are_not_looked_at() -> None:
    board = Board(4)
    assert list(board.used) == []
    board.slot(1).prepare(1, False, 0)
    board.slot(2).prepare(1, False, 0)
    assert [slot.number for slot in board.used] == [1, 2]


def test_in_flight_is_told_oldest_first_with_its_handler() -> None:
    slot = Board(1).slot(1)
    slot.name_handler(3, "orders", "shop.orders")
    slot.enter(3, tag=9, attempt=2, message_id=b"young", started_ns=200)
    slot.enter(3, tag=8, attempt=1, message_id=b"old", started_ns=100)
    assert slot.told.in_flight() == [
        InFlight("orders", "shop.orders", "old", 8, 1, 100),
        InFlight("orders", "shop.orders", "young", 9, 2, 200),
    ]


@pytest.mark.parametrize("key", [1, 2, -1, 2**63 - 1, -(2**63)])
def test_key_of_a_delivery_and_of_what_runs_alone_is_read_as_written(key: int) -> None:
    slot = Board(1).slot(1)
    assert slot.told.alone_key is None
    slot.enter(0, 1, 1, b"id", 1, key)
    slot.show_alone(key)
    assert (slot.told.in_flight()[0].key, slot.told.alone_key) == (key, key)
    slot.show_alone(None)
    assert slot.told.alone_key is None


def test_queue_of_what_runs_alone_and_those_of_all_in_flight_are_known() -> None:
    slot = Board(1).slot(1)
    assert slot.told.alone_queue is None
    for index, queue in enumerate(("orders", "mails")):
        slot.name_handler(index, queue, queue)
    slot.enter(0, 1, 1, b"", 1, 7)
    slot.enter(0, 2, 1, b"", 1, 8)
    slot.enter(1, 3, 1, b"", 1, 9)
    slot.enter(200, 4, 1, b"", 1, 10)
    assert slot.told.queues_in_flight() == {"orders": 2, "mails": 1}
    slot.show_alone(9)
    assert slot.told.alone_queue == "mails"
    slot.show_alone(11)
    assert slot.told.alone_queue is None


def test_message_is_known_to_be_started_elsewhere_while_it_is() -> None:
    board = Board(3)
    mine, other = board.slot(1), board.slot(2)
    for slot in (mine, other):
        slot.prepare(1, False, 0)
    mine.words[Word.PID] = 1
    mine.enter(0, 1, 1, b"", 1, key=5)
    other.enter(0, 1, 1, b"", 1, key=-6)
    entry = other.enter(0, 2, 1, b"", 1, key=-7)
    assert not mine.is_started_elsewhere(-7), "what is no process has started nothing"
    other.words[Word.PID] = 2
    assert mine.is_started_elsewhere(-7)
    assert not mine.is_started_elsewhere(5)
    assert not mine.is_started_elsewhere(8)
    other.leave(entry)
    assert not mine.is_started_elsewhere(-7)
    other.enter(0, 3, 1, b"", 1, key=9)
    other.prepare(2, False, 1)
    other.words[Word.PID] = 3
    assert not mine.is_started_elsewhere(9)


def test_new_process_of_a_slot_neither_wants_nor_has_isolation() -> None:
    slot = Board(1).slot(1)
    slot.words[Word.ISOLATION_WANTED] = slot.given[Given.ISOLATION_GRANTED] = 5
    slot.show_alone(7)
    slot.prepare(2, False, 1)
    assert slot.told.alone_key is None
    assert (slot.words[Word.ISOLATION_WANTED], slot.given[Given.ISOLATION_GRANTED]) == (0, 0)


def test_finished_delivery_frees_its_entry() -> None:
    slot = Board(1).slot(1)
    for tag in range(10 * IN_FLIGHT_ENTRIES):
        entry = slot.enter(0, tag, 1, b"", tag)
        assert entry != NO_ENTRY
        slot.leave(entry)
    assert slot.told.in_flight() == []


@pytest.mark.parametrize("count", [IN_FLIGHT_ENTRIES + 1, 1000, PLACES])
def test_all_that_is_in_flight_is_counted_and_known_by_its_key_and_256_are_described(count: int) -> None:
    board = Board(2)
    slot, other = board.slots
    for each in board.slots:
        each.prepare(1, False, 0)
        each.words[Word.PID] = 1
    places = [slot.enter(0, tag, 1, b"id", tag, key=tag + 5) for tag in range(count)]
    assert len(set(places)) == count
    assert slot.told.in_flight_count == count
    assert sorted(slot.told.keys_in_flight()) == [tag + 5 for tag in range(count)]
    assert len(slot.told.in_flight()) == IN_FLIGHT_ENTRIES
    assert other.is_started_elsewhere(count + 4)
    assert not other.is_started_elsewhere(count + 5)
    for place in places[: count - 3]:
        slot.leave(place)
    assert slot.told.in_flight_count == 3
    assert sorted(slot.told.keys_in_flight()) == [count + 2, count + 3, count + 4]
    assert len(slot.told.in_flight()) == max(0, IN_FLIGHT_ENTRIES - (count - 3))
    assert not other.is_started_elsewhere(count - 1)
    slot.prepare(2, False, 0)
    assert (slot.told.in_flight_count, slot.told.keys_in_flight(), other.is_started_elsewhere(count + 4)) == (
        0,
        [],
        False,
    )


def test_key_that_lies_across_two_others_is_not_found() -> None:
    board = Board(2)
    mine, other = board.slots
    for each in board.slots:
        each.prepare(1, False, 0)
        each.words[Word.PID] = 1
    across = b"\1\2\3\4"
    other.enter(0, 1, 1, b"", 1, key=int.from_bytes(b"\7\7\7\7" + across, "little"))
    other.enter(0, 1, 1, b"", 1, key=int.from_bytes(across + b"\7\7\7\7", "little"))
    key = int.from_bytes(across * 2, "little")
    assert not mine.is_started_elsewhere(key)
    other.enter(0, 1, 1, b"", 1, key)
    assert mine.is_started_elsewhere(key)


def test_what_has_no_place_is_counted_all_the_same() -> None:
    slot = Board(SLOTS_WITH_ALL_PLACES + 1).slots[-1]
    slot.prepare(1, False, 0)
    places = [slot.enter(0, tag, 1, b"", tag) for tag in range(FEWER_PLACES + 2)]
    assert places[-2:] == [NO_ENTRY, NO_ENTRY]
    assert slot.told.in_flight_count == FEWER_PLACES + 2
    slot.leave(NO_ENTRY)
    slot.leave(places[300])
    assert slot.told.in_flight_count == FEWER_PLACES
    assert slot.enter(0, 1, 1, b"", 1) == places[300]
    slot.prepare(2, False, 0)
    assert slot.told.in_flight_count == 0


@pytest.mark.parametrize(("index", "name"), [(0, "first"), (HANDLER_NAMES - 1, "last"), (HANDLER_NAMES, "other")])
def test_handlers_past_the_directory_are_other(index: int, name: str) -> None:
    slot = Board(1).slot(1)
    slot.name_handler(index, name, name)
    slot.enter(index, 1, 1, b"", 1)
    (held,) = slot.told.in_flight()
    assert (held.handler, held.queue) == (name, name)


def test_long_name_and_long_message_id_are_cut() -> None:
    slot = Board(1).slot(1)
    slot.name_handler(0, "h" * 1000, "orders")
    slot.enter(0, 1, 1, b"m" * 1000, 1)
    (held,) = slot.told.in_flight()
    assert (len(held.handler), len(held.message_id)) == (NAME_BYTES, MESSAGE_ID_BYTES)


def test_queues_are_told_as_the_worker_named_them() -> None:
    slot = Board(1).slot(1)
    assert slot.told.queues() == []
    names = ["orders", "q" * 255, "grün"]
    for index, name in enumerate(names):
        slot.name_handler(index, f"handler_{index}", name)
    assert slot.told.queues() == names
    assert all(slot.told.consumes(name) for name in names)
    assert not any(slot.told.consumes(name) for name in ("", "order", "ders", "q" * 254, "h" * 300))
    slot.prepare(2, False, 0)
    assert slot.told.queues() == []


@given(st.text(max_size=6000))
def test_note_is_read_as_written_up_to_its_bound(text: str) -> None:
    slot = Board(1).slot(1)
    slot.write_note(text)
    raw = text.encode("utf-8", "replace")
    assert slot.told.note == by_line(raw[:NOTE_BYTES].decode("utf-8", "replace"))


@given(st.binary(min_size=256, max_size=4096), st.integers(0, 2**32))
def test_reader_survives_any_bytes_in_the_workers_areas(noise: bytes, seed: int) -> None:
    slot = Board(1).slot(1)
    view = slot.view
    for at in range(len(slot.words) * 8, len(view), len(noise)):
        part = noise[: len(view) - at]
        view[at : at + len(part)] = part
    slot.words[Word.NOTE_LENGTH] = seed
    slot.words[Word.STATE] = seed + len(WorkerState)
    slot.words[Word.CLEARINGS] = seed
    assert isinstance(slot.told.note, str)
    assert len(slot.told.in_flight()) <= IN_FLIGHT_ENTRIES
    assert slot.told.in_flight_count <= PLACES
    assert slot.told.state is WorkerState.VACANT
    assert all(isinstance(name, str) for name in slot.told.queues())
    assert len(slot.told.clearings(0)) <= CLEARINGS


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_reader_of_requests_to_clear_survives_any_counts(after: int, count: int) -> None:
    slot = Board(1).slot(1)
    slot.words[Word.CLEARINGS] = count
    assert len(slot.told.clearings(after)) <= CLEARINGS


def test_requests_to_clear_are_read_once_each_and_the_oldest_are_lost_when_nobody_looks() -> None:
    board = Board(1)
    slot, checked = board.slot(1), board.checked(1)
    checked.prepare(1, False, 0)
    assert checked.look(1) is None
    slot.ask_to_clear(-7, 1)
    slot.ask_to_clear(8, 2)
    assert checked.new_clearings() == [], "they were not looked at"
    assert checked.look(1) is None
    assert checked.new_clearings() == [(-7, 1), (8, 2)]
    for key in range(CLEARINGS + 5):
        slot.ask_to_clear(key, 3)
    assert checked.look(1) is None
    assert checked.new_clearings() == [(key, 3) for key in range(5, CLEARINGS + 5)]
    assert checked.new_clearings() == []
    checked.prepare(2, False, 0)
    assert checked.look(1) is None
    assert checked.new_clearings() == []


def test_master_reads_what_made_sense_at_its_last_look() -> None:
    board = Board(1)
    slot, checked = board.slot(1), board.checked(1)
    checked.prepare(1, False, 5)
    slot.words[Word.RSS_BYTES] = 7
    slot.write_state(WorkerState.READY)
    assert checked.told.state is WorkerState.VACANT
    assert checked.look(9) is None
    assert (checked.told.state, checked.told.words[Word.RSS_BYTES]) == (WorkerState.READY, 7)
    slot.words[Word.RSS_BYTES] = 9
    slot.words[Word.STATE] = 255
    assert checked.look(9) == "STATE is 255, where 6 is the most"
    assert (checked.told.state, checked.told.words[Word.RSS_BYTES]) == (WorkerState.READY, 9)
    slot.words[Word.RSS_BYTES] = 10
    slot.words[Word.STATE] = WorkerState.READY
    assert checked.look(9) == "STATE is 255, where 6 is the most", "a broken worker is not believed again"
    assert checked.told.words[Word.RSS_BYTES] == 9
    checked.prepare(2, False, 5)
    assert checked.look(9) is None


@pytest.mark.parametrize("rubbish", [b"\xff", b"\0", b"\x5a\xa5\x01"])
@pytest.mark.parametrize("rows", [0, 3, ROWS + 2])
def test_counts_stay_as_they_were_whatever_a_worker_fills_its_slot_with(rubbish: bytes, rows: int) -> None:
    board = Board(1)
    slot, checked = board.slot(1), board.checked(1)
    checked.prepare(1, False, 5)
    for number in range(rows):
        row = slot.rows.consumer("orders", f"handler-{number}")
        row.words[Outcome.ACK] += number
        row.failed("ValueError")
        exchange = slot.rows.exchange(f"exchange-{number}")
        exchange[ExchangeWord.CONFIRMED] += 1
        exchange[ExchangeWord.BYTES_SENT] += 10
    slot.words[Word.EVER_READY] = 1
    assert checked.look(9) is None
    before = fold(board)
    for area in (slot.view, slot.metrics):
        area[:] = (rubbish * (len(area) // len(rubbish) + 1))[: len(area)]
    assert checked.look(9) is not None
    assert len(checked.told.keys_in_flight()) == 0, "it had started nothing when it made sense"
    checked.prepare(2, False, 5)
    assert fold(board) == before
    assert slot.ever_ready
    assert checked.look(9) is None


def test_a_forked_childs_words_are_seen_by_the_parent() -> None:
    board = Board(2)
    pid = os.fork()
    if pid == 0:
        try:
            own = board.of_worker(2).slot(2)
            own.beat(123)
            own.enter(0, 5, 1, b"from the child", 1)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert board.slot(2).deadline_ns == 123
    assert board.slot(2).told.in_flight()[0].message_id == "from the child"
    assert board.slot(1).deadline_ns == 0


def test_board_takes_memory_for_what_was_used_alone() -> None:
    before = shared_bytes()
    board = Board(MAX_WORKERS + 1)
    assert sum(len(slot.view) for slot in board.slots) < 100 * MIB
    assert shared_bytes() - before < MIB
    for slot in board.slots[:64]:
        slot.prepare(1, False, 0)
        assert slot.told.in_flight_count == 0
        assert not slot.is_started_elsewhere(5)
    assert board.suspects.find(5) is None
    assert shared_bytes() - before < 5 * MIB


def shared_bytes() -> int:
    """Return how much of what this process shares is in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
