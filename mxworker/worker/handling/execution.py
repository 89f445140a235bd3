"""Takes a delivery to its settlement: decompress, decode, call the handler, judge its outcome.

`pipeline` builds the coroutine function that runs for every delivery of one handler; for batches see
`batch_execution`. Every call ends in exactly one settlement. Only a cancellation is passed on, since only the code that
cancelled knows what it means. An awaitable that a handler returns is awaited within the handler's time. The publishes
that a handler did not await are confirmed before its delivery is acked, or the handler has failed.

This module knows nothing about channels, concurrency and deadlines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

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
from mxworker.worker.handling.decode_budget import DecodeBudget, LargePayloads, Unprocessed, forget_locals, unlimited
from mxworker.worker.handling.outcomes import alone_in, awaited
from mxworker.worker.handling.report import ACK, Report
from mxworker.worker.handling.threads import Threads

Execute = Callable[[Delivery], Coroutine[Any, Any, Settlement]]


def pipeline(
    handler: Handler,
    report: Report,
    scope: HandlerScope,
    threads: Threads | None = None,
    budget: DecodeBudget | None = None,
    suspended: Callable[[Delivery], AbstractContextManager[object]] = nullcontext,
    is_cut: Callable[[], bool] = lambda: False,
) -> Execute:
    """Return the coroutine function that takes a delivery of `handler` to its settlement, or raises Unprocessed.

    Without `threads` a `def` handler runs in the loop's thread, as in the process of a `cpu=True` handler. `budget`
    decides when large bodies are decoded; `suspended` is entered while a delivery waits for that. For `is_cut` see
    `middleware_chain.compose`.
    """
    decode = handler.decode
    reads_body = decode is not whole_delivery
    large_bytes = large_bytes_of(handler)
    budget = budget or unlimited()
    call, needs_context = call_of(handler, threads, is_cut)
    facts_of = scope.facts_of

    async def execute(delivery: Delivery) -> Settlement:
        # The steps of an execution: decode, call, judge. They are written out here, since this runs for every delivery,
        # and each function call costs. Exceptions of all steps are judged, too.
        large: LargePayloads | None = None
        try:
            # Decode: small bodies at once. A large body waits for its turn and for room.
            body: bytes | None = delivery.body
            if reads_body and delivery.raw_properties[0] & ENCODED:
                body = small_body(handler, delivery)
            if body is not None and len(body) <= large_bytes:
                payload = decode(delivery, body)
            else:
                body = None
                large = LargePayloads(budget, handler, partial(suspended, delivery))
                async with large:
                    payload = await large.decoded(delivery)
            # Call the handler, and judge its outcome.
            receipts = Unawaited(facts_of, delivery)
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
            # A success includes the publishes that the handler did not await.
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
