"""The table of suspects: what is entered is found, what was cleared is not, and nothing grows."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker.board.page import Board
from mxworker.board.suspects import STACK_BYTES, STACKS, SUSPECTS, TABLE_BYTES, Death, Suspects
from mxworker.system.exit_status import in_words

SEGFAULT = Death(status=-11, peak_rss_bytes=50_000_000, uptime_s=1.5, at_s=1_700_000_000, stack="in orders()")
EXIT = Death(status=0, peak_rss_bytes=40_000_000, uptime_s=9.0, at_s=1_700_000_009)


def table() -> Suspects:
    return Suspects(memoryview(bytearray(TABLE_BYTES)))


def clear(suspects: Suspects, key: int) -> None:
    """Clear a message of what it is suspect of now, if it is."""
    found = suspects.find(key)
    if found is not None:
        suspects.clear(key, found.death)


def test_nothing_is_suspect_before_the_first_death() -> None:
    suspects = table()
    assert suspects.deaths == 0
    assert suspects.find(0) is None
    clear(suspects, 0)


def test_what_a_dead_worker_had_started_is_suspect_with_the_facts_of_its_death() -> None:
    suspects = table()
    assert suspects.enter([7, -8, 7], None, SEGFAULT) == (2, 0)
    suspect = suspects.find(-8)
    assert suspect is not None
    assert (suspect.kills, suspect.was_alone, suspect.death) == (1, False, 1)
    assert suspect.last == Death(-11, 50_000_000, 1.5, 1_700_000_000)
    assert suspects.stack(suspect.death) == "in orders()"
    assert suspects.find(8) is None


def test_kills_add_up_and_the_last_death_counts() -> None:
    suspects = table()
    suspects.enter([1, 2], None, SEGFAULT)
    assert suspects.enter([1, 3], 1, EXIT) == (2, 1)
    found = suspects.find(1)
    assert found is not None
    assert (found.kills, found.was_alone, found.last) == (2, True, EXIT)
    neighbour = suspects.find(3)
    assert neighbour is not None
    assert (neighbour.kills, neighbour.was_alone) == (1, False)


def test_what_was_cleared_begins_anew() -> None:
    suspects = table()
    suspects.enter([1], None, SEGFAULT)
    clear(suspects, 1)
    assert suspects.find(1) is None
    suspects.enter([1], None, SEGFAULT)
    found = suspects.find(1)
    assert found is not None
    assert found.kills == 1


@pytest.mark.parametrize(
    ("kills", "alone_last", "after", "is_convicted"),
    [(3, True, 3, True), (2, True, 3, False), (3, False, 3, False), (1, True, 1, True), (1, False, 1, False)],
)
def test_convicted_is_who_killed_often_enough_and_the_last_time_alone(
    kills: int, alone_last: bool, after: int, is_convicted: bool
) -> None:
    suspects = table()
    for number in range(1, kills + 1):
        suspects.enter([1, 2], 1 if alone_last and number == kills else None, SEGFAULT)
    found = suspects.find(1)
    assert found is not None
    assert found.is_convicted(after) is is_convicted


def test_full_table_forgets_who_was_cleared_and_then_the_oldest_but_not_who_killed_again() -> None:
    suspects = table()
    suspects.enter(range(SUSPECTS), None, SEGFAULT)
    suspects.enter([0], 0, SEGFAULT)
    clear(suspects, 5)
    suspects.enter([SUSPECTS + 1], None, EXIT)
    assert suspects.find(1) is not None, "what was cleared goes first"
    suspects.enter([SUSPECTS + 2], None, EXIT)
    assert suspects.find(1) is None, "then the oldest"
    killer = suspects.find(0)
    assert killer is not None
    assert killer.kills == 2
    assert all(suspects.find(key) is not None for key in (SUSPECTS + 1, SUSPECTS + 2, 2))


def test_all_that_one_worker_may_have_started_is_suspect_and_the_next_death_forgets_the_oldest() -> None:
    suspects = table()
    assert suspects.enter(range(1, SUSPECTS + 1), None, SEGFAULT) == (SUSPECTS, 0)
    assert all(suspects.find(key) is not None for key in (1, 1024, 1025, SUSPECTS))
    suspects.enter(range(-SUSPECTS, 0), None, SEGFAULT)
    assert all(suspects.find(key) is not None for key in (-1, -1025, -SUSPECTS))
    assert suspects.find(1) is None


def test_stacks_are_bounded_and_the_last_ones_are_kept() -> None:
    suspects = table()
    for number in range(1, STACKS + 2):
        suspects.enter([number], None, Death(-11, 1, 1.0, 1, f"{number} " + "x" * 9000))
    assert suspects.stack(1) == ""
    assert suspects.stack(2).startswith("2 xx")
    assert len(suspects.stack(STACKS + 1)) == STACK_BYTES


def test_what_has_killed_again_since_is_not_cleared() -> None:
    suspects = table()
    suspects.enter([1, 2], None, SEGFAULT)
    suspects.enter([1], 1, EXIT)
    suspects.clear(1, death=1)
    suspects.clear(3, death=1)
    found = suspects.find(1)
    assert found is not None
    assert found.kills == 2
    for death in (0, -1, 2**63 - 1, 3):
        suspects.clear(2, death)
    assert suspects.find(2) is not None
    suspects.enter([2], None, SEGFAULT)
    assert suspects.find(2) is not None, "nobody clears it of what it has not done yet"


def test_what_a_worker_forgets_it_does_not_find_until_it_kills_again() -> None:
    suspects = table()
    suspects.enter([1, 2], None, SEGFAULT)
    assert suspects.find(1) is not None
    suspects.forget(1, 1)
    assert suspects.find(1) is None
    assert suspects.find(2) is not None
    suspects.enter([1], None, SEGFAULT)
    found = suspects.find(1)
    assert found is not None
    assert found.kills == 2, "the master was not asked"


def test_worker_remembers_no_more_keys_than_are_in_the_table() -> None:
    suspects = table()
    for number in range(50):
        suspects.enter([number], None, SEGFAULT)
        assert suspects.find(number) is not None
        suspects.forget(number, number + 1)
        suspects.clear(number, number + 1)
    assert len(suspects._forgotten) <= 2


def test_what_the_master_enters_a_worker_sees_and_what_the_worker_asks_for_is_cleared() -> None:
    board = Board(2)
    board.checked(1).prepare(1, False, 0)
    pid = os.fork()
    if pid == 0:
        try:
            mine = board.of_worker(1)
            while mine.suspects.find(1) is None:
                pass
            mine.slot(1).ask_to_clear(1, 1)
            os._exit(0)
        finally:
            os._exit(1)
    board.suspects.enter([1, 2], None, SEGFAULT)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert board.suspects.find(1) is not None, "the master alone writes the table"
    assert board.checked(1).look(1) is None
    for key, death in board.checked(1).new_clearings():
        board.suspects.clear(key, death)
    assert board.suspects.find(1) is None
    assert board.suspects.find(2) is not None


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_table_agrees_with_a_plain_dictionary(seed: int) -> None:
    rng = random.Random(seed)
    suspects, expected = table(), dict[int, int]()
    for _ in range(40):
        if rng.random() < 0.6:
            keys = rng.sample(range(-10, 10), rng.randint(0, 5))
            suspects.enter(keys, None, SEGFAULT)
            for key in keys:
                expected[key] = expected.get(key, 0) + 1
        else:
            key = rng.randint(-10, 10)
            clear(suspects, key)
            expected.pop(key, None)
        found = {key: suspect.kills for key in range(-10, 11) if (suspect := suspects.find(key))}
        assert found == expected


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=64, max_size=2048))
def test_worker_survives_any_bytes_in_the_table(noise: bytes) -> None:
    raw = (noise * (TABLE_BYTES // len(noise) + 1))[:TABLE_BYTES]
    suspects = Suspects(memoryview(bytearray(raw)))
    key = int.from_bytes(noise[:8], "little", signed=True)
    found = suspects.find(key)
    assert found is None or isinstance(suspects.stack(found.death), str)


@pytest.mark.parametrize(
    ("status", "words"),
    [(-11, "SIGSEGV"), (-9, "SIGKILL"), (0, "exit code 0"), (7, "exit code 7"), (-77, "signal 77")],
)
def test_status_in_words(status: int, words: str) -> None:
    assert in_words(status) == words
