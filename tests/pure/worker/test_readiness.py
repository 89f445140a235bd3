"""How far a worker is, by made-up consumers; what it says of that, and what code on trial does not consume yet."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from mxworker import Handlers
from mxworker.amqp.consuming.consumer import UNPROVEN
from mxworker.api.handlers import compile_handlers
from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.errors import InvariantError
from mxworker.worker.readiness import TRIAL_TRANSITIONS, Readiness, Trial


class Consumer:
    """Is as wanted when the test says so, or while it is paused."""

    def __init__(self) -> None:
        self.is_consuming = False
        self.reasons: set[str] = set()

    @property
    def is_as_wanted(self) -> bool:
        """Whether it consumes, or is paused."""
        return self.is_consuming or bool(self.reasons)

    def resume(self, reason: str) -> None:
        """Take a reason back."""
        self.reasons.discard(reason)


class Worker:
    """A worker with two queues, on a slot of its own."""

    def __init__(self, is_on_trial: bool = False) -> None:
        board = Board(1)
        board.checked(1).prepare(1, is_on_trial, 0)
        self.slot = board.slot(1)
        self.slot.write_state(WorkerState.BOOTING)
        handlers = Handlers()

        async def take(body: bytes) -> None: ...

        for queue in ("one", "two"):
            handlers.consume(queue)(take)
        self.shown: list[WorkerState] = []
        self.consumers: list[Any] = [Consumer(), Consumer()]
        url = SimpleNamespace(place="here")
        link: Any = SimpleNamespace(live=SimpleNamespace(server="RabbitMQ 4.0.5", url=url))
        self.readiness = Readiness(self.slot, compile_handlers(handlers), link, self.consumers, self.shown.append)
        self.readiness.move(WorkerState.CONNECTING)

    def consume(self, *are_consuming: bool) -> WorkerState:
        """Have the queues consumed, or not, and return the state that follows."""
        for consumer, is_consuming in zip(self.consumers, are_consuming, strict=True):
            consumer.is_consuming = is_consuming
        self.readiness.look()
        return self.readiness.state


def test_state_follows_from_how_many_queues_are_consumed() -> None:
    worker = Worker()
    assert worker.consume(False, False) is WorkerState.CONNECTING
    assert worker.consume(True, False) is WorkerState.DEGRADED
    assert not worker.slot.words[Word.EVER_READY]
    assert not worker.readiness.was_ready
    assert worker.consume(True, True) is WorkerState.READY
    assert worker.slot.words[Word.EVER_READY]
    assert worker.readiness.was_ready
    assert worker.consume(False, False) is WorkerState.CONNECTING
    assert worker.readiness.was_ready, "a start that has succeeded does not fail afterwards"
    assert worker.shown == [
        WorkerState.CONNECTING,
        WorkerState.DEGRADED,
        WorkerState.READY,
        WorkerState.CONNECTING,
    ]


def test_queues_change_no_state_of_a_worker_that_drains() -> None:
    worker = Worker()
    worker.readiness.move(WorkerState.DRAINING)
    assert worker.consume(True, True) is WorkerState.DRAINING


def test_state_that_does_not_follow_is_refused_and_changes_nothing() -> None:
    worker = Worker()
    with pytest.raises(InvariantError):
        worker.readiness.move(WorkerState.STOPPED)
    assert worker.readiness.state is WorkerState.CONNECTING
    assert worker.shown == [WorkerState.CONNECTING]


def test_first_time_is_told_as_ready_and_the_next_as_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxworker")
    worker = Worker()
    worker.consume(True, True)
    worker.consume(True, False)
    worker.consume(True, True)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == ["worker 1 is ready: RabbitMQ 4.0.5 at here", "worker 1 consumes all its queues again"]


def test_code_on_trial_consumes_nothing_before_all_queues_are_checked() -> None:
    worker = Worker(is_on_trial=True)
    first, second = worker.consumers
    assert worker.readiness.is_checking
    first.reasons.add(UNPROVEN)
    worker.readiness.look()
    assert first.reasons == {UNPROVEN}
    second.reasons.add(UNPROVEN)
    worker.readiness.look()
    assert first.reasons == second.reasons == set()
    assert not worker.readiness.is_checking
    assert worker.readiness.state is WorkerState.CONNECTING
    assert worker.consume(True, True) is WorkerState.READY


def test_trial_goes_forward_only() -> None:
    assert [*TRIAL_TRANSITIONS] == [*Trial]
    steps = [(trial, further) for trial, nexts in TRIAL_TRANSITIONS.items() for further in nexts]
    assert steps == [(Trial.CHECKING, Trial.STARTING), (Trial.STARTING, Trial.SERVED)]
