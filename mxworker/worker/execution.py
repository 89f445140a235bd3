"""From a delivery to its settlement: decode, call the handler, translate what came of it.

`pipeline` builds the coroutine function that runs for every delivery of one handler. It ends in exactly one settlement,
whatever happens inside; only a cancellation passes through, for who cancelled knows what it means.

Must not know: channels, concurrency, deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mxworker.context import Context
from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.handlers import Handler
from mxworker.settlement import Settlement
from mxworker.worker.report import ACK, Report

Execute = Callable[[Delivery], Coroutine[Any, Any, Settlement]]


def pipeline(handler: Handler, report: Report) -> Execute:
    """Return the coroutine function that takes a delivery of `handler` to its settlement."""
    decode = handler.decode
    function = handler.function
    wants_context = handler.wants_context
    queue = handler.queue.name
    name = handler.name

    async def execute(delivery: Delivery) -> Settlement:
        try:
            payload = decode(delivery)
            if wants_context:
                outcome = await function(payload, Context(delivery, queue, name))
            else:
                outcome = await function(payload)
            return ACK if outcome is None else report.settled(delivery, outcome)
        except Settlement as settlement:
            return report.settled(delivery, settlement)
        except asyncio.CancelledError:
            raise
        except DecodeError as error:
            return report.undecodable(delivery, error)
        except BaseException as error:  # SystemExit too: one message must not end the process
            return report.failed(delivery, error)

    return execute
