"""An application that would declare one queue in two ways is refused before the broker refuses it at every start."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest

from mxworker import Handlers, Queue, RetryPolicy
from mxworker.api.handlers import compile_handlers
from mxworker.errors import AppLoadError


async def order(payload: Any) -> None: ...


async def dead(payload: Any) -> None: ...


def consuming(*queues: str | Queue) -> Handlers:
    handlers = Handlers()
    for queue, function in zip(queues, (order, dead), strict=False):
        handlers.consume(queue, retry=RetryPolicy(delays=(5.0,)))(function)
    return handlers


def refusal(handlers: Handlers) -> str:
    with pytest.raises(AppLoadError) as caught:
        compile_handlers(handlers)
    return str(caught.value)


@pytest.mark.parametrize(
    ("beside", "role"),
    [
        ("q.dlq", "the dead-letter queue"),
        ("q.retry.5000", "a retry queue"),
        ("q.quarantine", "the quarantine queue"),
    ],
)
def test_handler_of_a_queue_beside_that_of_another_is_refused_with_both(beside: str, role: str) -> None:
    text = refusal(consuming("q", beside))
    assert re.match(rf"\S*test_collisions.py:\d+  handler 'dead' uses queue '{beside}', which is {role} of ", text)
    assert re.search(r"queue 'q' \(handler 'order' at \S*test_collisions.py:\d+\), too\.", text)
    assert "give one of the two queues another name" in text
    assert (f'write Queue("{beside}", dead_letter=False)' in text) == (role != "a retry queue")


def test_order_and_registry_do_not_matter() -> None:
    outer = consuming("q.dlq")
    outer.include(consuming("q"))
    assert "handler 'order' uses queue 'q.dlq'" in refusal(outer)


def test_queue_that_is_only_declared_collides_too() -> None:
    handlers = consuming("q")
    handlers.declare("q.dlq")
    assert refusal(handlers).startswith("declare(\"q.dlq\") uses queue 'q.dlq', which is the dead-letter queue of ")
    handlers = consuming("q.dlq")
    handlers.declare("q")
    assert "queue 'q' (declare(\"q\")), too" in refusal(handlers)


@pytest.mark.parametrize("beside", ["q.dlq", "q.quarantine"])
def test_advice_works(beside: str) -> None:
    assert len(compile_handlers(consuming("q", Queue(beside, dead_letter=False)))) == 2


def test_queue_without_dead_letters_collides_with_nothing() -> None:
    assert len(compile_handlers(consuming(Queue("q", dead_letter=False), "q.dlq"))) == 2


@pytest.mark.parametrize("declare", ["passive", "off"])
def test_queue_that_is_taken_as_it_is_collides_with_nothing(declare: Literal["passive", "off"]) -> None:
    assert len(compile_handlers(consuming("q", Queue("q.dlq", declare=declare)))) == 2


def test_other_queues_go_together() -> None:
    handlers = consuming("q", "q.dl")
    handlers.declare("q.other")
    assert len(compile_handlers(handlers)) == 2
