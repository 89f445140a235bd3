"""What a worker has done is logged every few seconds, and nothing when it has done nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mxworker import PublisherStats, WorkerStats
from mxworker.worker.performance import PerformanceLog
from tests.harness.logged import events
from tests.harness.waiting import until

NO_PUBLISHES = PublisherStats(0, 0, 0, 0, 0, 0, {}, False, 0)
NO_DELIVERIES = WorkerStats(0, 0, 0, 0)


class Figures:
    """The figures of a worker, which a test changes."""

    def __init__(self) -> None:
        self.published = NO_PUBLISHES
        self.consumed = NO_DELIVERIES

    def log(self, every_s: float = 10.0) -> PerformanceLog:
        return PerformanceLog(3, lambda: self.published, lambda: self.consumed, [], every_s)


@pytest.fixture
def figures(caplog: pytest.LogCaptureFixture) -> Figures:
    caplog.set_level("INFO", "mxworker")
    return Figures()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_nothing_is_told_when_there_was_no_work(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    figures.log().tell()
    assert told(caplog) == []


def test_publishes_are_told_with_their_four_figures(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    log = figures.log()
    figures.published = replace(NO_PUBLISHES, tasks_queued=12_034, tasks_processed=12_030, tasks_failed=4)
    log.tell()
    log.tell()
    (line,) = events(caplog, "publisher_performance")
    figures_of: dict[str, Any] = {"worker": 3, "queued": 12_034, "processed": 12_030, "failed": 4, "dropped": 0}
    assert line.items() >= figures_of.items()
    assert line["levelname"] == "INFO"
    assert told(caplog)[0].startswith("Publisher performance: 12,034 queued, 12,030 processed, 4 failed, 0 dropped; ")


def test_dropped_publishes_are_warned_of(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    log = figures.log()
    for dropped in (5, 5, 7):
        figures.published = replace(NO_PUBLISHES, tasks_queued=dropped, tasks_dropped=dropped)
        log.tell()
    lines = events(caplog, "publishes_dropped")
    assert [(line["publishes"], line["levelname"]) for line in lines] == [(5, "WARNING"), (2, "WARNING")]


def test_a_publish_that_only_ends_is_work(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    figures.published = replace(NO_PUBLISHES, tasks_queued=1, in_flight=1)
    log = figures.log()
    figures.published = replace(NO_PUBLISHES, tasks_queued=1, tasks_processed=1)
    log.tell()
    assert len(events(caplog, "publisher_performance")) == 1


def test_deliveries_are_told_with_their_four_figures(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    log = figures.log()
    figures.consumed = WorkerStats(5_000, 12, 8, 40)
    log.tell()
    (line,) = events(caplog, "consumer_performance")
    figures_of = {"worker": 3, "processed": 5_000, "failed": 12, "active_workers": 8, "queued_tasks": 40}
    assert line.items() >= figures_of.items()
    assert told(caplog)[0].startswith(
        "Consumer performance: 5,000 processed, 12 failed, 8 active workers, 40 queued tasks; "
    )


@pytest.mark.parametrize("consumed", [WorkerStats(0, 0, 1, 0), WorkerStats(0, 0, 0, 1)])
def test_a_handler_that_runs_or_a_delivery_that_waits_is_work(
    consumed: WorkerStats, figures: Figures, caplog: pytest.LogCaptureFixture
) -> None:
    log = figures.log()
    figures.consumed = consumed
    log.tell()
    log.tell()
    assert len(events(caplog, "consumer_performance")) == 2


async def test_work_since_the_last_line_is_told_at_the_end(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    running = asyncio.create_task(figures.log(every_s=3600).run())
    await asyncio.sleep(0)
    figures.consumed = WorkerStats(1, 0, 0, 0)
    running.cancel()
    await asyncio.wait([running])
    assert [line["processed"] for line in events(caplog, "consumer_performance")] == [1]


async def test_it_is_told_again_and_again(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    figures.consumed = WorkerStats(0, 0, 1, 0)
    running = asyncio.create_task(figures.log(every_s=0.01).run())
    await until(lambda: len(events(caplog, "consumer_performance")) >= 3, 10.0)
    running.cancel()
    await asyncio.wait([running])
