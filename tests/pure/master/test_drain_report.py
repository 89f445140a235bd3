"""What an operator is told while a service drains."""

from __future__ import annotations

from mxworker.master.drain_report import AGAIN_NS, DrainReport, cancelling, in_words, killing

S = 1_000_000_000


def test_drain_is_told_at_its_start_and_every_10_s_for_as_long_as_handlers_run() -> None:
    report = DrainReport()
    deadline_ns, running = 30 * S, {"order": 2, "invoice": 1}
    assert report.line(running, deadline_ns, 0, by_ctrl_c=True) == (
        "draining: waiting up to 30 s for 3 handlers: order (2), invoice (1); Ctrl-C again cancels them"
    )
    assert report.line(running, deadline_ns, AGAIN_NS - 1, by_ctrl_c=True) is None
    assert report.line({"order": 1}, deadline_ns, AGAIN_NS, by_ctrl_c=True) == (
        "still draining: 1 handler: order (1) left; waiting up to 20 s more"
    )
    assert report.line({}, deadline_ns, 2 * AGAIN_NS, by_ctrl_c=True) is None


def test_drain_that_nobody_asked_for_at_a_terminal_says_nothing_of_ctrl_c() -> None:
    assert "Ctrl-C" not in str(DrainReport().line({"order": 1}, 30 * S, 0, by_ctrl_c=False))


def test_drain_without_handlers_says_so() -> None:
    assert DrainReport().line({}, 30 * S, 0, by_ctrl_c=True) == "draining: no handler is running"


def test_cancelling_ends_the_lines_of_the_drain() -> None:
    report = DrainReport()
    report.end()
    assert report.due_ns is None
    assert report.line({"order": 1}, 30 * S, S, by_ctrl_c=True) is None


def test_next_ctrl_c_is_named_until_there_is_none() -> None:
    assert cancelling({"order": 2}).endswith("; Ctrl-C again kills the workers")
    assert "Ctrl-C" not in killing({"order": 2})


def test_most_handlers_are_named_first_and_the_rest_is_counted() -> None:
    running = {f"handler{number}": number for number in range(1, 8)}
    assert in_words(running) == (
        "28 handlers: handler7 (7), handler6 (6), handler5 (5), handler4 (4), handler3 (3), 2 others (3)"
    )
