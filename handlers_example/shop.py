"""The worker of a small shop, one handler of each kind: copy the one you need.

    pip install 'mxworker[typed]'
    mxworker run handlers_example.shop --broker-url amqp://guest:guest@localhost/

    orders --+--> payments --+--> invoices
             |               +--> labels
             +--> stock

A message can come twice after a crash. That does no harm here, because everything is written under a key. A message
that can never succeed, or that failed too often, goes to the dead-letter queue of its queue, such as `orders.dlq`, with
the reason in its headers. Files are written to the folder SHOP_FOLDER, by default `shop`. SHOP_PREFIX is put before the
names of the queues.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from handlers_example import bank, labels, pricing, warehouse
from handlers_example.files import write_once
from handlers_example.pricing import Invoice, Order
from handlers_example.warehouse import Warehouse
from mxworker import Context, Handlers, Reject, Retry, RetryPolicy

PREFIX = os.environ.get("SHOP_PREFIX", "")
ORDERS, PAYMENTS, STOCK = f"{PREFIX}orders", f"{PREFIX}payments", f"{PREFIX}stock"
INVOICES, LABELS = f"{PREFIX}invoices", f"{PREFIX}labels"

handlers = Handlers()


@dataclass(frozen=True, slots=True)
class Shop:
    """The state that the handlers of a process share."""

    invoices: Path
    labels: Path
    warehouse: Warehouse


@handlers.lifespan
async def open_shop() -> AsyncIterator[Shop]:
    """Run in each worker process: up to `yield` before its first delivery, and after `yield` after its last.

    The yielded value is `ctx.state`.
    """
    folder = Path(os.environ.get("SHOP_FOLDER", "shop"))
    for part in ("invoices", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with warehouse.opened(folder / "stock.sqlite") as opened:
        yield Shop(folder / "invoices", folder / "labels", opened)


# Typed: the body is checked against the dataclass before the handler is called. A body that does not fit becomes a dead
# letter.
@handlers.consume(ORDERS, concurrency=16)
async def take_order(order: Order, ctx: Context) -> None:
    """Price an order, and publish it for payment and for the stock."""
    try:
        invoice = pricing.price(order)
    except pricing.InvalidOrder as error:
        raise Reject(str(error)) from error  # no second attempt would help, so it becomes a dead letter at once
    # Each publish returns when it is confirmed, and the order is acked after both, so it cannot be lost in between.
    await ctx.publisher.publish(invoice, routing_key=PAYMENTS, message_id=order.id)
    await ctx.publisher.publish(order, routing_key=STOCK, message_id=order.id)


# Retries: after any exception the message is tried again later, here at most three times, and then is a dead letter.
@handlers.consume(PAYMENTS, concurrency=16, timeout=10, retry=RetryPolicy(max_retries=3, delays=(0.2, 0.5, 1.0)))
async def charge(invoice: Invoice, ctx: Context) -> None:
    """Charge the customer, then order the invoice and the label."""
    try:
        await bank.charge(invoice.order_id, invoice.total_cents, ctx.attempt)
    except bank.Busy as busy:
        raise Retry(after=busy.after_s, reason=str(busy)) from busy  # the bank said when; without it the policy does
    for queue in (INVOICES, LABELS):
        await ctx.publisher.publish(invoice, routing_key=queue, message_id=invoice.order_id)


# Sync: a `def` handler runs in a thread, so a slow disk delays only this invoice.
@handlers.consume(INVOICES, concurrency=4)
def write_invoice(invoice: Invoice, ctx: Context) -> None:
    """Write an invoice to a file."""
    content = orjson.dumps(invoice, option=orjson.OPT_INDENT_2)
    if not write_once(ctx.state.invoices / f"{invoice.order_id}.json", content):
        ctx.log.info("order %s came again; its invoice is left unchanged", invoice.order_id)


# Batch: up to a hundred orders, or those of a tenth of a second, in one transaction, with one verdict for each order.
@handlers.consume_batch(STOCK, size=100, wait=0.1)
def book(orders: list[Order], ctx: Context) -> list[Reject | None]:
    """Book the articles that leave the shelves."""
    verdicts = [Reject("a truck has to be ordered") if warehouse.needs_a_truck(order) else None for order in orders]
    ctx.state.warehouse.book(order for order, verdict in zip(orders, verdicts, strict=True) if verdict is None)
    return verdicts


# CPU-bound: the handler runs in a separate process, so that it delays no other handler and can be killed on timeout.
@handlers.consume(LABELS, cpu=True, prefetch=16, timeout=5)
def print_label(invoice: Invoice, ctx: Context) -> None:
    """Draw the label of the parcel."""
    write_once(ctx.state.labels / f"{invoice.order_id}.png", labels.draw(invoice.order_id))
