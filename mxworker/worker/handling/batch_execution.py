"""Takes a batch to a settlement for each of its deliveries: decode, call the handler once, judge.

This module knows nothing about channels, concurrency and deadlines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES
from mxworker.amqp.publishing.unawaited import Unawaited, confirm_rest, unawaited
from mxworker.api.compilation import Handler
from mxworker.api.context import Context, HandlerScope
from mxworker.api.decoder import whole_delivery
from mxworker.api.delivery import Delivery
from mxworker.api.settlement import Ack, Settlement
from mxworker.errors import DecodeError
from mxworker.system.forks import ThisProcess, end_fork
from mxworker.worker.handling.bodies import ENCODED, large_bytes_of, small_body
from mxworker.worker.handling.calling import call_of
from mxworker.worker.handling.decode_budget import (
    DecodeBudget,
    LargePayloads,
    OverBudget,
    Suspended,
    Unprocessed,
    forget_locals,
    unlimited,
)
from mxworker.worker.handling.outcomes import awaited, by_position, each_awaited, is_for_all
from mxworker.worker.handling.report import Report
from mxworker.worker.handling.threads import Threads

_BODIES_PER_TURN = 64  # of a batch, decoded before other tasks run
_LARGE_BATCH_BYTES = 1024 * 1024  # the bodies of a batch above this sum count as large

Undecodable = dict[Delivery, Settlement]
"""The deliveries of a batch that do not reach the handler, with their settlements."""
LeaveRest = Callable[[list[Delivery]], None]
ExecuteBatch = Callable[[list[Delivery], Undecodable, Suspended, LeaveRest], Coroutine[Any, Any, list[Settlement]]]


def batch_pipeline(
    handler: Handler,
    report: Report,
    scope: HandlerScope,
    threads: Threads | None = None,
    budget: DecodeBudget | None = None,
    is_cut: Callable[[], bool] = lambda: False,
) -> ExecuteBatch:
    """Return the coroutine function that takes a batch of `handler` to a settlement for each of its deliveries.

    Its second argument also gets the deliveries that cannot be decoded, for a caller that cancels it. The third is
    entered while the batch waits for room. When there is no room for payloads beside the others of the batch, their
    deliveries are taken out of the first argument, and the fourth is called with them. It may raise Unprocessed. For
    `is_cut` see `middleware_chain.compose`.
    """
    call, needs_context = call_of(handler, threads, is_cut)
    decode = handler.decode
    reads_body = decode is not whole_delivery
    large_bytes = large_bytes_of(handler)
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
            payloads = []  # not cleared, since the handler may keep the list
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
        """Fill `payloads`, and return their deliveries. Takes the turn at the first large body."""
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
                elif reads_body and delivery.raw_properties[0] & ENCODED:
                    body = small_body(handler, delivery)
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
        receipts = Unawaited(scope.facts_of, taken)
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
        except BaseException as error:  # SystemExit too: one batch must not end the process
            if not large.is_empty:
                forget_locals(error)
            return [report.failed(error)] * len(taken)

    return execute
