"""What a worker may have written to its slot passes; what it cannot have written does not, and is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.check import believed, check, latest_deadline_ns
from mxworker.board.layout import NOTE_BYTES, PLACES, WORDS, Word
from mxworker.board.lifecycle import Wish, WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.board.slot import BoardSlot
from tests.harness.counts import counted

NOW_NS = 10**15
LATEST_NS = latest_deadline_ns(NOW_NS, 30.0, 60.0, 45.0)
UNTOUCHED = [0] * WORDS
words_64 = st.integers(0, 2**64 - 1)


def words(**values: int) -> list[int]:
    """Return words of a slot: zeros, but for these."""
    made = [0] * WORDS
    for name, value in values.items():
        made[Word[name]] = value
    return made


def fault(made: list[int], before: list[int] = UNTOUCHED, places: int = PLACES) -> str | None:
    return check(made, before, places, LATEST_NS)


def test_untouched_slot_makes_sense() -> None:
    assert fault(UNTOUCHED) is None


@pytest.mark.parametrize(
    ("word", "most"),
    [
        (Word.STATE, max(WorkerState)),
        (Word.WISH, max(Wish)),
        (Word.IS_BURST_OVER, 1),
        (Word.EVER_READY, 1),
        (Word.IS_ALONE, 1),
        (Word.NOTE_LENGTH, NOTE_BYTES),
        (Word.PLACES_USED, PLACES),
        (Word.DEADLINE_NS, LATEST_NS),
        (Word.PID, 2**22),
        (Word.RSS_BYTES, 2**52),
        (Word.UNPLACED, 2**32),
        (Word.ISOLATION_WANTED, 2**53),
        (Word.CLEARINGS, 2**53),
    ],
)
def test_word_is_bounded_and_the_fault_names_it(word: Word, most: int) -> None:
    assert fault(words(**{word.name: most})) is None
    for value in (most + 1, 2**63, 2**64 - 1):
        found = fault(words(**{word.name: value}))
        assert found is not None
        assert found.startswith(f"{word.name} ")
        assert str(value) in found


def test_every_word_but_a_key_has_a_bound() -> None:
    unbounded = [word for word in Word if fault(words(**{word.name: 2**64 - 1})) is None]
    assert unbounded == [Word.ALONE_KEY]


@pytest.mark.parametrize("word", [Word.EVER_READY, Word.PLACES_USED, Word.CLEARINGS])
def test_what_only_rises_may_not_fall(word: Word) -> None:
    before = words(**{word.name: 1})
    assert fault(before, before) is None
    assert fault(UNTOUCHED, before) == f"{word.name} has fallen from 1 to 0"


def test_process_keeps_its_pid() -> None:
    assert fault(words(PID=4711)) is None
    assert fault(words(PID=4711), words(PID=4711)) is None
    assert fault(words(PID=4712), words(PID=4711)) == "PID has changed from 4711 to 4712"
    assert fault(words(PID=0), words(PID=4711)) == "PID has changed from 4711 to 0"


@pytest.mark.parametrize("place", range(len(Word), WORDS))
def test_word_without_a_meaning_stays_zero(place: int) -> None:
    made = [0] * WORDS
    made[place] = 5
    assert fault(made) == f"word {place} is 5, and means nothing"


def test_slot_with_fewer_places_has_another_bound() -> None:
    assert fault(words(PLACES_USED=4096), places=4096) is None
    assert fault(words(PLACES_USED=4097), places=4096) == "PLACES_USED is 4097, where 4096 is the most"


@given(st.binary(min_size=WORDS * 8, max_size=WORDS * 8))
def test_random_bytes_make_no_sense(noise: bytes) -> None:
    made = memoryview(noise).cast("Q").tolist()
    assert (fault(made) is None) == (not any(noise))


@given(
    st.lists(words_64, min_size=WORDS, max_size=WORDS),
    st.lists(st.integers(0, 2**20), min_size=WORDS, max_size=WORDS),
)
def test_of_any_words_those_are_believed_that_make_sense_and_together_they_do(
    made: list[int], before: list[int]
) -> None:
    for word in Word:
        before[word] %= 2
    before[len(Word) :] = [0] * (WORDS - len(Word))
    latest = believed(made, before, PLACES, LATEST_NS)
    assert check(latest, before, PLACES, LATEST_NS) is None
    assert all(value in (new, old) for value, new, old in zip(latest, made, before, strict=True))
    if check(made, before, PLACES, LATEST_NS) is None:
        assert latest == made


def settle(slot: BoardSlot) -> None:
    slot.rows.consumer("orders", "order").words[Outcome.ACK] += 1


def start_and_finish(slot: BoardSlot) -> None:
    slot.leave(slot.enter(0, 1, 1, b"id", 1, key=-5))


ACTS: dict[str, Callable[[BoardSlot], object]] = {
    "settle": settle,
    "start": lambda slot: slot.enter(0, 1, 1, b"id", 1, key=7),
    "start and finish": start_and_finish,
    "beat": lambda slot: slot.beat(NOW_NS + 60 * 10**9),
    "run alone": lambda slot: slot.show_alone(-1),
    "run beside others": lambda slot: slot.show_alone(None),
    "clear": lambda slot: slot.ask_to_clear(-(2**63), 5),
    "note": lambda slot: slot.write_note("x" * 9000),
    **{f"state {state.name}": lambda slot, state=state: slot.write_state(state) for state in WorkerState},  # type: ignore[misc]
}


@given(st.lists(st.sampled_from([*sorted(ACTS), "look", "next process"]), max_size=60))
def test_whatever_a_worker_does_its_slot_makes_sense(names: list[str]) -> None:
    board = Board(1)
    checked = board.checked(1)
    checked.prepare(1, False, NOW_NS)
    slot = board.slot(1)
    for name in names:
        if name == "next process":
            assert checked.look(LATEST_NS) is None
            settled = counted(slot, Outcome.ACK)
            checked.prepare(1, False, NOW_NS)
            slot = Board.slot(board, 1)
            slot._used = 0  # as in a new process
            slot._free.clear()
            assert counted(slot, Outcome.ACK) == settled
        elif name == "look":
            assert slot.look(LATEST_NS) is None
            slot._at_last_look = None
        else:
            ACTS[name](slot)
        assert checked.look(LATEST_NS) is None
