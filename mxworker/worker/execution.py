"""From a delivery to its settlement: decompress, decode, call the handler, translate what came of it.

`pipeline` builds the coroutine function that runs for every delivery of one handler, `batch_pipeline` the one for its
batches. They end in exactly one settlement for each delivery, whatever happens inside; only a cancellation passes
through, for who cancelled knows what it means. What a handler returns is awaited where it runs, within its time, if it
can be. What a handler published and did not wait for is confirmed before its delivery is acked, or the handler has
failed.

Must not know: channels, concurrency, deadlines.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from mxworker.codec import whole_body, whole_delivery
from mxworker.compilation import Handler, HandlerKind
from mxworker.compression import UnknownCoding, decompress, is_compressed
from mxworker.context import Context, Surroundings
from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.forks import end_fork
from mxworker.middleware import CallNext, compose
from mxworker.outcomes import awaited, by_position, each_awaited, is_for_all, listed
from mxworker.properties import FLAG_CONTENT_ENCODING
from mxworker.settlement import Ack, Settlement, alone_in
from mxworker.unawaited import Unawaited, confirm_rest, unawaited
from mxworker.worker.report import ACK, Report
from mxworker.worker.threads import Threads

_ENCODED = FLAG_CONTENT_ENCODING >> 8  # in the first octet of the raw properties
# A compressed body up to here comes to a mebibyte at most, which takes 3 ms; a thread would cost others more than that.
_SMALL_BODY_BYTES = 8 * 1024
_BODIES_PER_TURN = 64  # of a batch, decoded before others get their turn

Execute = Callable[[Delivery], Coroutine[Any, Any, Settlement]]
Undecodable = dict[Delivery, Settlement]
"""The deliveries of a batch that no handler is shown, with what becomes of them."""
ExecuteBatch = Callable[[list[Delivery], Undecodable], Coroutine[Any, Any, list[Settlement]]]


def pipeline(handler: Handler, report: Report, surroundings: Surroundings, threads: Threads | None = None) -> Execute:
    """Return the coroutine function that takes a delivery of `handler` to its settlement.

    Without `threads` a `def` handler runs where the coroutine does, as it should in a process of its own.
    """
    decode = handler.decode
    reads_body = decode is not whole_delivery
    call, needs_context = _call(handler, threads)
    pid = os.getpid()

    async def execute(delivery: Delivery) -> Settlement:
        try:
            body = delivery.body
            if reads_body and delivery.raw_properties[0] & _ENCODED:
                body = await _decompressed(handler, delivery)
            payload = decode(delivery, body)
            receipts = Unawaited()
            unawaited.set(receipts)
            try:
                if needs_context:
                    outcome = await call(payload, Context(delivery, surroundings))
                else:
                    outcome = await call(payload)
                settlement = ACK if outcome is None else report.settled(await awaited(outcome))
            except Settlement as raised:
                settlement = report.settled(raised)
            except BaseExceptionGroup as group:
                alone = alone_in(group)
                if alone is None:
                    raise
                settlement = report.settled(alone)
            finally:
                if os.getpid() != pid:
                    end_fork(sys.exception())
                published = receipts.take()
            if published and isinstance(settlement, Ack):
                await confirm_rest(published)
            return settlement
        except asyncio.CancelledError:
            raise
        except DecodeError as error:
            return report.undecodable(error)
        except BaseException as error:  # SystemExit too: one message must not end the process
            return report.failed(error)

    return execute


def batch_pipeline(
    handler: Handler, report: Report, surroundings: Surroundings, threads: Threads | None = None
) -> ExecuteBatch:
    """Return the coroutine function that takes a batch of `handler` to a settlement for each of its deliveries.

    What cannot be decoded is put into its second argument as well, for a caller who cancels it.
    """
    call, needs_context = _call(handler, threads)
    pid = os.getpid()

    async def execute(deliveries: list[Delivery], undecodable: Undecodable) -> list[Settlement]:
        payloads = []
        taken = []
        for number, delivery in enumerate(deliveries, 1):
            if number % _BODIES_PER_TURN == 0:
                await asyncio.sleep(0)
            try:
                payloads.append(await _decoded(handler, delivery))
                taken.append(delivery)
            except DecodeError as error:
                undecodable[delivery] = report.undecodable(error)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # decoding may run the application's code
                undecodable[delivery] = report.failed(error)
        settlements = await _settlements(payloads, taken) if taken else []
        if not undecodable:
            return settlements
        rest = iter(settlements)
        return [undecodable.get(delivery) or next(rest) for delivery in deliveries]

    async def _settlements(payloads: list[Any], taken: list[Delivery]) -> list[Settlement]:
        receipts = Unawaited()
        unawaited.set(receipts)
        try:
            try:
                if needs_context:
                    outcome = await call(payloads, Context(taken[0], surroundings, taken))
                else:
                    outcome = await call(payloads)
                outcome = await awaited(outcome)
                if not is_for_all(outcome):
                    outcome = await each_awaited(by_position(outcome, len(taken)))
            except (Settlement, BaseExceptionGroup) as raised:
                outcome = raised
            finally:
                if os.getpid() != pid:
                    end_fork(sys.exception())
                published = receipts.take()
            settlements = report.batch_settled(len(taken), outcome)
            if published and any(isinstance(settlement, Ack) for settlement in settlements):
                await confirm_rest(published)
            return settlements
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # as above
            return [report.failed(error)] * len(taken)

    return execute


def _call(handler: Handler, threads: Threads | None) -> tuple[Callable[..., Awaitable[Any]], bool]:
    """Return how to call the handler through its middleware, and whether that takes a context beside the payload."""
    function = handler.function if handler.batch is None else _listing(handler)
    if handler.kind is not HandlerKind.ASYNC:
        function = _in_thread(function, threads)
    if not handler.middleware:
        return function, handler.wants_context
    innermost: CallNext = function if handler.wants_context else lambda payload, ctx: function(payload)
    return compose(handler.middleware, innermost), True


def _listing(handler: Handler) -> Callable[..., Any]:
    """Return the function of a batch handler, such that a generator which it returns runs where the handler does."""
    function = handler.function
    if handler.kind is not HandlerKind.ASYNC:
        return lambda payloads, *context: listed(function(payloads, *context), len(payloads))

    async def call(payloads: Sequence[Any], *context: Any) -> Any:
        return listed(await awaited(function(payloads, *context)), len(payloads))

    return call


def _in_thread(function: Callable[..., Any], threads: Threads | None) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any) -> Any:
        return await threads.call(function, *arguments) if threads is not None else _called(function, *arguments)

    return call


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a `def` handler in the thread of the loop as in one without a loop: `asyncio.run` works there."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return function(*arguments)
    finally:
        asyncio._set_running_loop(loop)


async def _decoded(handler: Handler, delivery: Delivery) -> Any:
    """Return the payload of a delivery. Raises DecodeError."""
    body = delivery.body
    if delivery.raw_properties[0] & _ENCODED and handler.decode is not whole_delivery:
        body = await _decompressed(handler, delivery)
    return handler.decode(delivery, body)


async def _decompressed(handler: Handler, delivery: Delivery) -> bytes:
    """Return the body as its content-encoding says, in a thread when that may take a while. Raises DecodeError.

    A handler that takes bytes gets a body that nobody can undo here as it was sent. When the handler's time is up the
    thread goes on, for no longer than the limits of `decompress` let it.
    """
    body = delivery.body
    encoding = delivery.properties.content_encoding or ""
    try:
        if len(body) <= _SMALL_BODY_BYTES or not is_compressed(encoding):
            return decompress(body, encoding)
    except UnknownCoding:
        if handler.decode is whole_body:
            return body
        raise
    return await asyncio.get_running_loop().run_in_executor(None, decompress, body, encoding)
