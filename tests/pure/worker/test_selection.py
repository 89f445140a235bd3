"""Which handlers a worker takes, and with whose values."""

from __future__ import annotations

import re

import pytest

from mxworker import Handlers, RetryPolicy
from mxworker.api.compilation import Handler
from mxworker.config.overrides import Overrides
from mxworker.errors import ConfigError
from mxworker.worker.loading import select

AS_IN_CODE = Overrides()


def handlers() -> Handlers:
    """Return an application with a queue for each kind of handler, one of them in a registry that is included."""
    outer, inner = Handlers(), Handlers()

    @outer.consume("orders", concurrency=2, timeout=9, retry=RetryPolicy(max_retries=7, delays=(2.0,)))
    async def order(payload: dict[str, int]) -> None: ...

    @outer.consume("alerts", retry=None)
    async def alert(payload: dict[str, int]) -> None: ...

    @inner.consume_batch("events", size=30, wait=2)
    async def events(payloads: list[bytes]) -> None: ...

    outer.include(inner)
    return outer


def selected(
    queues: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    overrides: Overrides = AS_IN_CODE,
    **of_queue: Overrides,
) -> dict[str, Handler]:
    found = select(handlers(), queues, overrides, exclude, of_queue)
    return {handler.queue.name: handler for handler in found}


def test_queues_are_named_or_left_out() -> None:
    assert selected().keys() == {"orders", "alerts", "events"}
    assert selected(queues=("orders", "events")).keys() == {"orders", "events"}
    assert selected(exclude=("orders",)).keys() == {"alerts", "events"}
    assert selected(queues=("orders", "events"), exclude=("orders",)).keys() == {"events"}


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"queues": ("order",)}, "no handler consumes queue 'order'.  The app consumes: orders, alerts, events."),
        ({"queues": ("order",)}, "Check --queues."),
        ({"exclude": ("order",)}, "Check --exclude-queues."),
        ({"order": AS_IN_CODE}, "Check the [queues] tables of the configuration file."),
        ({"queues": ("orders",), "exclude": ("orders",)}, "no queue is left to consume."),
    ],
)
def test_a_queue_that_is_not_there_is_refused(chosen: dict[str, tuple[str, ...]], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        selected(**chosen)  # type: ignore[arg-type]


def test_values_of_the_operator_replace_those_of_the_code_and_a_queue_may_have_its_own() -> None:
    chosen = Overrides(concurrency=4, prefetch=8, timeout_s=5.0, max_retries=1, on_error="ack", batch_wait_s=0.5)
    found = selected(overrides=chosen, events=Overrides(concurrency=1, batch_size=6))
    order, alert, events = (found[queue] for queue in ("orders", "alerts", "events"))
    assert (order.concurrency, order.prefetch, order.timeout_s, order.on_error) == (4, 8, 5.0, "ack")
    assert order.retry == RetryPolicy(max_retries=1, delays=(2.0,))
    assert alert.retry is None, "the code has no retry queues, which a number of retries would need"
    assert events.batch is not None
    assert (events.concurrency, events.batch.size, events.batch.wait_s, events.on_error) == (1, 6, 2, "retry")
