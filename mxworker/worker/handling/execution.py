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
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Any

from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES
from mxworker.amqp.publishing.unawaited import Unawaited, confirm_rest, unawaited
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.context import Context, HandlerScope
from mxworker.api.decoder import whole_body, whole_delivery
from mxworker.api.delivery import Delivery
from mxworker.api.middleware import CallNext
from mxworker.api.settlement import Ack, Settlement
from mxworker.errors import DecodeError
from mxworker.payloads.compression import UnknownCoding, decompress, is_compressed
from mxworker.system.forks import ThisProcess, end_fork
from mxworker.wire.properties import FLAG_CONTENT_ENCODING
from mxworker.worker.handling.decode_budget import (
    DecodeBudget,
    LargePayloads,
    OverBudget,
    Suspended,
    Unprocessed,
    forget_locals,
    unlimited,
)
from mxworker.worker.handling.middleware_chain import compose
from mxworker.worker.handling.outcomes import alone_in, awaited, by_position, each_awaited, is_for_all, listed
from mxworker.worker.handling.payload_size import expected_growth
from mxworker.worker.handling.report import ACK, Report
from mxworker.worker.handling.threads import Threads

_ENCODED = FLAG_CONTENT_ENCODING >> 8  # in the first octet of the raw properties
# A compressed body up to here comes to a mebibyte at most, which takes 3 ms; a thread would cost others more than that.
_SMALL_BODY_BYTES = 8 * 1024
_BODIES_PER_TURN = 64  # of a batch, decoded before others get their turn
_LARGE_BATCH_BYTES = 1024 * 1024  # what of a batch goes beyond counts as large

Execute = Callable[[Delivery], Coroutine[Any, Any, Settlement]]
Undecodable = dict[Delivery, Settlement]
"""The deliveries of a batch that no handler is shown, with what becomes of them."""
LeaveRest = Callable[[list[Delivery]], None]
ExecuteBatch = Callable[[list[Delivery], Undecodable, Suspended, LeaveRest], Coroutine[Any, Any, list[Settlement]]]


def pipeline(
    handler: Handler,
    report: Report,
    scope: HandlerScope,
    threads: Threads | None = None,
    budget: DecodeBudget | None = None,
    suspended: Callable[[Delivery], AbstractContextManager[object]] = nullcontext,
) -> Execute:
    """Return the coroutine function that takes a delivery of `handler` to its settlement, or raises Unprocessed.

    Without `threads` a `def` handler runs where the coroutine does, as it should in a process of its own. Large bodies
    are decoded as `budget` lets them; `suspended` is entered while a delivery waits for that.
    """
    decode = handler.decode
    reads_body = decode is not whole_delivery
    large_bytes = _large_bytes(handler)
    budget = budget or unlimited()
    call, needs_context = _call(handler, threads)

    async def execute(delivery: Delivery) -> Settlement:
        large: LargePayloads | None = None
        try:
            body: bytes | None = delivery.body
            if reads_body and delivery.raw_properties[0] & _ENCODED:
                body = _small_body(handler, delivery)
            if body is not None and len(body) <= large_bytes:
                payload = decode(delivery, body)
            else:
                body = None
                large = LargePayloads(budget, handler, partial(suspended, delivery))
                async with large:
                    payload = await large.decoded(delivery)
            receipts = Unawaited()
            unawaited.set(receipts)
            try:
                if needs_context:
                    outcome = await call(payload, Context(delivery, scope))
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
                if ThisProcess.is_forked:
                    end_fork(sys.exception())
                published = receipts.take()
            if published and isinstance(settlement, Ack):
                await confirm_rest(published)
            return settlement
        except (asyncio.CancelledError, Unprocessed):
            raise
        except DecodeError as error:
            return report.undecodable(error)
        except BaseException as error:  # SystemExit too: one message must not end the process
            if large is not None:
                forget_locals(error)
            return report.failed(error)
        finally:
            if large is not None:
                payload = outcome = None
                large.release()

    return execute


def batch_pipeline(
    handler: Handler,
    report: Report,
    scope: HandlerScope,
    threads: Threads | None = None,
    budget: DecodeBudget | None = None,
) -> ExecuteBatch:
    """Return the coroutine function that takes a batch of `handler` to a settlement for each of its deliveries.

    What cannot be decoded is put into its second argument as well, for a caller who cancels it. The third is entered
    while the batch waits for room; the fourth is called with the deliveries for whose payloads there is no room beside
    the others of the batch, and which are taken out of the first. It may raise Unprocessed.
    """
    call, needs_context = _call(handler, threads)
    decode = handler.decode
    reads_body = decode is not whole_delivery
    large_bytes = _large_bytes(handler)
    most_small_bytes = _LARGE_BATCH_BYTES if large_bytes == LARGE_BODY_BYTES else sys.maxsize
    budget = budget or unlimited()

    async def execute(
        deliveries: list[Delivery], undecodable: Undecodable, suspended: Suspended, leave_rest: LeaveRest
    ) -> list[Settlement]:
        large = LargePayloads(budget, handler, suspended)
        payloads: list[Any] = []
        try:
            async with AsyncExitStack() as turn:
                taken = await _decoded_batch(deliveries, undecodable, payloads, large, turn, leave_rest)
            settlements = await _settlements(payloads, taken, large) if taken else []
        finally:
            payloads = []  # not cleared: the list is the handler's, too
            large.release()
        if not undecodable:
            return settlements
        rest = iter(settlements)
        return [undecodable.get(delivery) or next(rest) for delivery in deliveries]

    async def _decoded_batch(
        deliveries: list[Delivery],
        undecodable: Undecodable,
        payloads: list[Any],
        large: LargePayloads,
        turn: AsyncExitStack,
        leave_rest: LeaveRest,
    ) -> list[Delivery]:
        """Fill `payloads`, and return the deliveries that they are of. From the first large one on it has the turn."""
        taken: list[Delivery] = []
        small_bytes = 0
        has_turn = False
        for number, delivery in enumerate(deliveries, 1):
            if number % _BODIES_PER_TURN == 0:
                await asyncio.sleep(0)
            try:
                body: bytes | None = delivery.body
                if small_bytes > most_small_bytes:
                    body = None
                elif reads_body and delivery.raw_properties[0] & _ENCODED:
                    body = _small_body(handler, delivery)
                if body is not None and len(body) <= large_bytes:
                    small_bytes += len(body)
                    payloads.append(decode(delivery, body))
                else:
                    if not has_turn:
                        await turn.enter_async_context(large)
                        has_turn = True
                    payloads.append(await large.decoded(delivery))
                taken.append(delivery)
            except OverBudget as error:
                if not large.is_empty:
                    rest = deliveries[number - 1 :]
                    del deliveries[number - 1 :]
                    leave_rest(rest)
                    break
                undecodable[delivery] = report.undecodable(error)
            except DecodeError as error:
                undecodable[delivery] = report.undecodable(error)
            except (asyncio.CancelledError, Unprocessed):
                raise
            except BaseException as error:  # decoding may run the application's code
                undecodable[delivery] = report.failed(error)
        return taken

    async def _settlements(payloads: list[Any], taken: list[Delivery], large: LargePayloads) -> list[Settlement]:
        receipts = Unawaited()
        unawaited.set(receipts)
        try:
            try:
                if needs_context:
                    outcome = await call(payloads, Context(taken[0], scope, taken))
                else:
                    outcome = await call(payloads)
                outcome = await awaited(outcome)
                if not is_for_all(outcome):
                    outcome = await each_awaited(by_position(outcome, len(taken)))
            except (Settlement, BaseExceptionGroup) as raised:
                outcome = raised
            finally:
                if ThisProcess.is_forked:
                    end_fork(sys.exception())
                published = receipts.take()
            settlements = report.batch_settled(len(taken), outcome)
            if published and any(isinstance(settlement, Ack) for settlement in settlements):
                await confirm_rest(published)
            return settlements
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # as above
            if not large.is_empty:
                forget_locals(error)
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


def _large_bytes(handler: Handler) -> int:
    """Return above what size a body is large: none is that becomes nothing else."""
    return LARGE_BODY_BYTES if expected_growth(handler.decode) > 1 else sys.maxsize


def _small_body(handler: Handler, delivery: Delivery) -> bytes | None:
    """Return the body as its content-encoding says; None when it is large then, or may be. Raises DecodeError.

    A handler that takes bytes gets a body that nobody can undo here as it was sent.
    """
    body = delivery.body
    if not delivery.raw_properties[0] & _ENCODED or handler.decode is whole_delivery:
        return body
    encoding = delivery.properties.content_encoding or ""
    try:
        if not is_compressed(encoding):
            return decompress(body, encoding)
        if len(body) > _SMALL_BODY_BYTES:
            return None
        content = decompress(body, encoding)
    except UnknownCoding:
        if handler.decode is whole_body:
            return body
        raise
    return content if len(content) <= LARGE_BODY_BYTES else None
