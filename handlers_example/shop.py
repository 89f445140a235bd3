"""The worker of a small shop: orders arrive as JSON, are checked, priced and written as invoices; bad ones are refused.

    mxworker run handlers_example.shop --broker-url amqp://guest:guest@localhost/

It consumes the queue `orders`; what it refuses waits in `orders.dlq`. Invoices go to the folder that SHOP_INVOICES
names, by default `invoices`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from handlers_example import invoices, pricing
from mxworker import Context, Handlers, Reject

INVOICES = Path(os.environ.get("SHOP_INVOICES", "invoices"))

handlers = Handlers()


@handlers.consume("orders", concurrency=8, timeout=10)
async def order(payload: dict[str, Any], ctx: Context) -> None:
    """Turn an order into an invoice."""
    try:
        invoice = pricing.price(pricing.read_order(payload))
    except pricing.InvalidOrder as error:
        raise Reject(str(error)) from error  # no second attempt would help: to the dead-letter queue
    # Writing blocks, so it happens in a thread: a slow disk then holds up this order and not all the others.
    is_new = await asyncio.to_thread(invoices.write, INVOICES, invoice)
    if not is_new:
        ctx.log.info("order %s came again; its invoice stays as it is", invoice.order_id)
