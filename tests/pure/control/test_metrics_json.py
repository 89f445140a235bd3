"""Metrics go through JSON unchanged, and those of the largest service fit into an answer."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest

from mxworker.board.metric_rows import MetricRows, observe
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import (
    FAILURE_TYPES,
    METRICS_BYTES,
    ROWS,
    ExchangeWord,
    Loss,
    Outcome,
    ProcessWord,
    RowSeconds,
    RowWord,
)
from mxworker.board.page import Board
from mxworker.config.bounds import MAX_WORKERS
from mxworker.control.metrics_json import metrics_of, plain
from mxworker.control.protocol import ANSWER_BYTES, answer_line


def board_at_work(slots: int, handlers: int = 2) -> Board:
    board = Board(slots)
    for slot in board.slots:
        slot.prepare(1, False, 1)
        rows = MetricRows(slot.metrics)
        for handler in range(handlers):
            row = rows.consumer(f"queue-{handler:02}", "handler")
            row.words[Outcome.ACK] = 10**9 + handler
            row.write_queue_facts(5, None, 2, 0, None, 100.5)
            observe(row.words, RowWord.DURATION, row.seconds, RowSeconds.DURATION, 0.25)
            for number in range(handlers):
                row.failed(f"Error{number}")
        rows.exchange("shop")[ExchangeWord.NACKED] = 3
        rows.process[ProcessWord.RECONNECTS + Loss.SILENT] = 2
        rows.process[ProcessWord.CONNECTIONS + 4] = 1
        rows.process[ProcessWord.CHANNELS + 5] = 7
    return board


def test_metrics_go_through_json_unchanged() -> None:
    metrics = fold(board_at_work(2))
    assert metrics_of(orjson.loads(orjson.dumps(plain(metrics)))) == metrics


def test_any_bytes_on_the_board_make_an_answer() -> None:
    board = board_at_work(20)
    for slot in board.slots:
        slot.metrics[:] = os.urandom(METRICS_BYTES)
    metrics = fold(board)
    assert metrics_of(orjson.loads(answer_line({"ok": True, "metrics": plain(metrics)}))["metrics"]) == metrics


def test_an_answer_of_a_later_version_is_read() -> None:
    metrics = fold(board_at_work(1))
    answer = plain(metrics)
    answer["consumers"][0]["more"] = answer["more"] = 1
    assert metrics_of(answer) == metrics


@pytest.mark.parametrize("answer", [{}, {"consumers": 1}, {**plain(fold(board_at_work(1))), "processes": [{}]}])
def test_what_is_no_answer_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no answer to the request for metrics"):
        metrics_of(answer)


def test_the_metrics_of_the_largest_service_fit_into_an_answer() -> None:
    board = board_at_work(MAX_WORKERS, handlers=2)
    rows = MetricRows(board.slot(1).metrics)
    for number in range(ROWS + 1):
        row = rows.consumer(f"{number:0>255}", f"{number:0>255}")
        for kind in range(FAILURE_TYPES + 1):
            row.failed(f"{kind:0>90}")
    line = answer_line({"ok": True, "metrics": plain(fold(board))})
    assert len(line) < ANSWER_BYTES / 4
    assert orjson.loads(line)["ok"]
