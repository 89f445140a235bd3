"""The ledger keeps what was written, and its checker sees every kind of fault, each by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.ledger import FINISH, RECORD_BYTES, START, Event, Ledger, Record, check, count, read
from tests.harness.repository import REPOSITORY

WRITER = """
import sys
from tests.harness.ledger import Ledger
ledger = Ledger(sys.argv[1])
for number in range(int(sys.argv[3])):
    ledger.start(f"{sys.argv[2]}-{number}")
    ledger.finish(f"{sys.argv[2]}-{number}")
"""


def history(*steps: tuple[Event, str] | tuple[Event, str, int]) -> list[Record]:
    """Records one nanosecond apart; the third of a step is the pid, 1 when it is left out."""
    return [Record(step[1], step[0], step[2] if len(step) == 3 else 1, at_ns) for at_ns, step in enumerate(steps)]


def once(*ids: str) -> list[Record]:
    return history(*((event, id_) for id_ in ids for event in (START, FINISH)))


# The file


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    before_ns = time.monotonic_ns()
    ledger = Ledger(tmp_path / "ledger")
    ledger.start("a b")
    ledger.finish("b")
    ledger.close()
    records = read(tmp_path / "ledger")
    assert [(record.id, record.event, record.pid) for record in records] == [
        ("a b", START, os.getpid()),
        ("b", FINISH, os.getpid()),
    ]
    assert before_ns <= records[0].at_ns <= records[1].at_ns <= time.monotonic_ns()
    assert count(tmp_path / "ledger") == 2


def test_a_ledger_that_nobody_wrote_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    assert count(tmp_path / "none") == 0


@pytest.mark.parametrize("bad", ["x" * 81, "two\nlines", "ä", "\udcff"])
def test_an_id_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, bad: str) -> None:
    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(ValueError):
        ledger.start(bad)
    ledger.close()
    assert count(tmp_path / "ledger") == 0


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b"x" * (RECORD_BYTES + 1))
    with pytest.raises(ValueError, match="whole number"):
        read(tmp_path / "ledger")


def test_a_reader_never_sees_half_a_record_because_none_crosses_a_page() -> None:
    assert os.sysconf("SC_PAGE_SIZE") % RECORD_BYTES == 0


def test_records_of_processes_and_threads_do_not_mix(tmp_path: Path) -> None:
    path, each = tmp_path / "ledger", 2000
    processes = [_writer(path, f"process{number}", each) for number in range(3)]
    ledger = Ledger(path)
    threads = [threading.Thread(target=_start_all, args=(ledger, f"thread{number}", each)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    ledger.close()
    records = read(path)
    assert len(records) == 3 * each * 2 + 3 * each
    assert len({(record.id, record.event) for record in records}) == len(records)


def test_what_was_written_survives_the_kill_of_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    process = _writer(path, "victim", 10_000_000)
    deadline = time.monotonic() + 30
    while count(path) < 500:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    seen = count(path)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    records = read(path)
    assert len(records) >= seen
    assert [record.id for record in records[::2]] == [f"victim-{number}" for number in range((len(records) + 1) // 2)]


def _start_all(ledger: Ledger, name: str, records: int) -> None:
    for number in range(records):
        ledger.start(f"{name}-{number}")


def _writer(path: Path, name: str, records: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(records)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})


# The judgement: nothing wrong


@given(ids=st.sets(st.text(min_size=1, max_size=5)))
def test_each_message_handled_once_is_exact(ids: set[str]) -> None:
    report = check(ids, once(*ids))
    assert report.exactly_once
    assert not report.unfinished
    assert repr(report) == f"Report({len(ids)} expected, {len(ids)} started, {len(ids)} finished, 0 in queue)"


def test_a_message_still_in_the_queue_is_not_lost() -> None:
    assert check({"a", "b"}, once("a"), left_in_queue=["b"]).exactly_once


# The judgement: one fault each


def test_a_message_that_never_came_is_lost() -> None:
    report = check({"a", "b"}, once("a"))
    assert report.lost == {"b"}
    assert not report.nothing_lost
    assert not report.exactly_once


def test_a_message_started_but_never_finished_is_lost() -> None:
    report = check({"a"}, history((START, "a")))
    assert report.lost == {"a"}
    assert report.unfinished == {"a"}


def test_a_message_interrupted_and_back_in_the_queue_is_not_lost() -> None:
    report = check({"a"}, history((START, "a")), left_in_queue=["a"])
    assert report.nothing_lost
    assert report.unfinished == {"a"}


def test_a_message_handled_twice_is_a_duplicate_and_refinished() -> None:
    report = check({"a", "b"}, once("a", "b", "a", "a"))
    assert report.duplicates == {"a": 2}
    assert report.duplicate_count == 2
    assert report.refinished == {"a"}
    assert report.nothing_lost
    assert not report.exactly_once


def test_a_message_started_again_after_a_kill_is_a_duplicate_but_not_refinished_or_overlapping() -> None:
    report = check({"a"}, history((START, "a", 1), (START, "a", 2), (FINISH, "a", 2)))
    assert report.duplicates == {"a": 1}
    assert not report.refinished
    assert not report.overlapping
    assert report.unfinished == {"a"}


def test_a_message_handled_by_two_at_the_same_time_is_overlapping() -> None:
    report = check({"a"}, history((START, "a", 1), (START, "a", 2), (FINISH, "a", 2), (FINISH, "a", 1)))
    assert report.overlapping == {"a"}


def test_a_message_handled_twice_in_turn_is_not_overlapping() -> None:
    steps = history((START, "a", 1), (FINISH, "a", 1), (START, "a", 2), (FINISH, "a", 2))
    assert not check({"a"}, steps).overlapping


def test_a_message_nobody_sent_is_unexpected() -> None:
    assert check({"a"}, once("a", "b")).unexpected == {"b"}
    assert check({"a"}, once("a"), left_in_queue=["c"]).unexpected == {"c"}
    assert check({"a"}, history(*[(START, "a"), (FINISH, "a"), (FINISH, "d")])).unexpected == {"d"}
    assert not check({"a"}, once("a", "b")).nothing_lost


def test_a_message_finished_and_still_in_the_queue_came_back() -> None:
    report = check({"a"}, once("a"), left_in_queue=["a"])
    assert report.came_back == {"a"}
    assert not report.exactly_once


def test_two_copies_left_in_the_queue_are_a_duplicate() -> None:
    assert check({"a"}, [], left_in_queue=["a", "a"]).duplicates == {"a": 1}


def test_the_report_names_a_few_of_many() -> None:
    text = repr(check({f"id{number}" for number in range(9)}, once("x")))
    assert text.startswith(
        "Report(9 expected, 1 started, 1 finished, 0 in queue; lost 9: id0, id1, id2, id3, id4 and 4 more"
    )
    assert "unexpected 1: x" in text
