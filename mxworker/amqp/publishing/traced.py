"""A span for each publish, from its acceptance to its outcome, with its context in the headers of the message.

A copy for a retry or a dead letter has no span, and keeps the context of the original.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mxworker.amqp.publishing.publishing import Publishing
from mxworker.api.message import Content, Copy, Message, MessageOptions
from mxworker.tracing.tracer import Tracer

How = tuple[str, str, bool, float | None]
"""Exchange, routing key, mandatory and timeout_s of one publish, or of many; see `Publisher.publish`."""
Accept = Callable[[Any, How, MessageOptions, bool], Publishing]
"""Takes a publish: the body, how to publish it, its options, and whether it may wait for room."""


def traced(accept: Accept, tracer: Tracer) -> Accept:
    """Return a function that does what `accept` does, with a span."""

    def accept_with_span(body: Any, how: How, options: MessageOptions, may_wait: bool) -> Publishing:
        if isinstance(body, Copy):
            return accept(body, how, options, may_wait)
        exchange, routing_key, _, _ = how
        span = tracer.start_publish(str(exchange), str(routing_key))
        try:
            publishing = accept(*_carrying(body, how, options, tracer.headers_of(span)), may_wait)
        except BaseException as error:
            tracer.end(span, type(error).__name__)
            raise
        receipt = publishing.receipt
        waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda _: tracer.end(span, receipt.failed_with, receipt.message_id))
        receipt.wake(waiter)
        return publishing

    return accept_with_span


def _carrying(
    body: Any, how: How, options: MessageOptions, headers: Mapping[str, str]
) -> tuple[Any, How, MessageOptions]:
    """Return a publish with more headers. Headers of the same name, such as those of a message received, give way."""
    if isinstance(body, Content):
        return body.with_headers(headers), how, options
    if isinstance(body, Message):
        return replace(body, headers={**(body.headers or {}), **headers}), how, options
    return body, how, {**options, "headers": {**(options.get("headers") or {}), **headers}}
