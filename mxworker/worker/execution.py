"""From a delivery to its settlement: decompress, decode, call the handler, translate what came of it.

`pipeline` builds the coroutine function that runs for every delivery of one handler. It ends in exactly one settlement,
whatever happens inside; only a cancellation passes through, for who cancelled knows what it means. What a handler
published and did not wait for is confirmed before its delivery is acked, or the handler has failed.

Must not know: channels, concurrency, deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mxworker.codec import whole_delivery
from mxworker.compression import decompress, is_compressed
from mxworker.context import Context, Equipment
from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.handlers import Handler
from mxworker.properties import FLAG_CONTENT_ENCODING
from mxworker.receipts import Unawaited, confirm_rest, unawaited
from mxworker.settlement import Ack, Settlement
from mxworker.worker.report import ACK, Report

_ENCODED = FLAG_CONTENT_ENCODING >> 8  # in the first octet of the raw properties
# A compressed body up to here comes to a mebibyte at most, which takes 3 ms; a thread would cost others more than that.
_SMALL_BODY_BYTES = 8 * 1024

Execute = Callable[[Delivery], Coroutine[Any, Any, Settlement]]


def pipeline(handler: Handler, report: Report, equipment: Equipment | None = None) -> Execute:
    """Return the coroutine function that takes a delivery of `handler` to its settlement."""
    decode = handler.decode
    reads_body = decode is not whole_delivery
    function = handler.function
    wants_context = handler.wants_context
    queue = handler.queue.name
    name = handler.name

    async def execute(delivery: Delivery) -> Settlement:
        try:
            body = delivery.body
            if reads_body and delivery.raw_properties[0] & _ENCODED:
                body = await _decompressed(delivery)
            payload = decode(delivery, body)
            receipts = Unawaited()
            unawaited.set(receipts)
            try:
                if wants_context:
                    outcome = await function(payload, Context(delivery, queue, name, equipment))
                else:
                    outcome = await function(payload)
            except Settlement as raised:
                outcome = raised
            finally:
                published = receipts.take()
            settlement = ACK if outcome is None else report.settled(delivery, outcome)
            if published and isinstance(settlement, Ack):
                await confirm_rest(published)
            return settlement
        except asyncio.CancelledError:
            raise
        except DecodeError as error:
            return report.undecodable(delivery, error)
        except BaseException as error:  # SystemExit too: one message must not end the process
            return report.failed(delivery, error)

    return execute


async def _decompressed(delivery: Delivery) -> bytes:
    """Return the body as its content-encoding says, in a thread when that may take a while. Raises DecodeError.

    When the handler's time is up the thread goes on, for no longer than the limits of `decompress` let it.
    """
    body = delivery.body
    encoding = delivery.properties.content_encoding or ""
    if len(body) <= _SMALL_BODY_BYTES or not is_compressed(encoding):
        return decompress(body, encoding)
    return await asyncio.get_running_loop().run_in_executor(None, decompress, body, encoding)
