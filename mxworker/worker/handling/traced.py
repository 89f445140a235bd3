"""A span for each execution of a handler. What is prefetched and not started has none, and settling has none either."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mxworker.api.delivery import Delivery
from mxworker.api.settlement import Ack, Settlement
from mxworker.errors import DecodeError
from mxworker.tracing.tracer import Tracer
from mxworker.worker.handling.batch_execution import ExecuteBatch, LeaveRest, Undecodable
from mxworker.worker.handling.decode_budget import Suspended
from mxworker.worker.handling.execution import Execute


def traced(execute: Execute, queue: str, tracer: Tracer) -> Execute:
    """Return a function that does what `execute` does, in a span."""

    async def execute_in_span(delivery: Delivery) -> Settlement:
        properties = delivery.properties
        with tracer.processing_one(
            queue,
            delivery.exchange,
            delivery.routing_key,
            _headers_of(delivery),
            delivery.delivery_tag,
            properties.message_id,
            properties.correlation_id,
        ) as span:
            try:
                settlement = await execute(delivery)
            except asyncio.CancelledError as error:  # its time is up, or a drain cuts it short
                tracer.note_error(span, type(error).__name__)
                raise
            tracer.note_error(span, _error_type(settlement))
            return settlement

    return execute_in_span


def traced_batch(execute: ExecuteBatch, queue: str, tracer: Tracer) -> ExecuteBatch:
    """Return a function that does what `execute` does, in one span, which fails when a delivery does."""

    async def execute_in_span(
        deliveries: list[Delivery], undecodable: Undecodable, suspended: Suspended, leave_rest: LeaveRest
    ) -> list[Settlement]:
        with tracer.processing_batch(queue, [_headers_of(delivery) for delivery in deliveries]) as span:
            try:
                settlements = await execute(deliveries, undecodable, suspended, leave_rest)
            except asyncio.CancelledError as error:
                tracer.note_error(span, type(error).__name__)
                raise
            tracer.note_error(span, next(filter(None, map(_error_type, settlements)), ""))
            return settlements

    return execute_in_span


def _headers_of(delivery: Delivery) -> Mapping[str, Any]:
    try:
        return delivery.headers
    except DecodeError:  # the handler learns of it when it asks
        return {}


def _error_type(settlement: Settlement) -> str:
    """Return the type of the error that a delivery failed with, "" for a success."""
    if isinstance(settlement, Ack):
        return ""
    failure = settlement.failure
    if failure is None:
        return type(settlement).__name__
    return failure.error_type or failure.kind.value
