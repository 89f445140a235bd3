"""The worker of a small shop, one handler of each kind: copy the one you need.

    pip install 'mxworker[typed]'
    mxworker run handlers_example.shop --broker-url amqp://guest:guest@localhost/

    orders --+--> payments --+--> invoices
             |               +--> labels
             +--> stock

A message can come twice, after a crash, and nothing here minds: what is written has a key. What can never succeed, and
what failed too often, waits in the queue's dead-letter queue, such as `orders.dlq`, with the reason in its headers.
Files go to the folder that SHOP_FOLDER names, by default `shop`; SHOP_PREFIX goes before the names of the queues.
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
    """What the handlers of a process share."""

    invoices: Path
    labels: Path
    warehouse: Warehouse


@handlers.lifespan
async def open_shop() -> AsyncIterator[Shop]:
    """Run around each worker process: what is before `yield` comes before its first delivery, the rest after its last.

    What it yields is `ctx.state`.
    """
    folder = Path(os.environ.get("SHOP_FOLDER", "shop"))
    for part in ("invoices", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with warehouse.opened(folder / "stock.sqlite") as opened:
        yield Shop(folder / "invoices", folder / "labels", opened)


# Typed: the body is checked against the dataclass before the handler is called; one that does not fit is a dead letter.
@handlers.consume(ORDERS, concurrency=16)
async def take_order(order: Order, ctx: Context) -> None:
    """Price an order, and send it on."""
    try:
        invoice = pricing.price(order)
    except pricing.InvalidOrder as error:
        raise Reject(str(error)) from error  # no second attempt would help: a dead letter at once
    # Each publish is confirmed when it returns, and the order is acked when both are: it cannot be lost in between.
    await ctx.publisher.publish(invoice, routing_key=PAYMENTS, message_id=order.id)
    await ctx.publisher.publish(order, routing_key=STOCK, message_id=order.id)


# Retries: whatever is raised means again later, here three times at most, then the message is a dead letter.
@handlers.consume(PAYMENTS, concurrency=16, timeout=10, retry=RetryPolicy(max_retries=3, delays=(0.2, 0.5, 1.0)))
async def charge(invoice: Invoice, ctx: Context) -> None:
    """Charge the customer, and have the parcel sent."""
    try:
        await bank.charge(invoice.order_id, invoice.total_cents, ctx.attempt)
    except bank.Busy as busy:
        raise Retry(after=busy.after_s, reason=str(busy)) from busy  # it said when; else the policy does
    for queue in (INVOICES, LABELS):
        await ctx.publisher.publish(invoice, routing_key=queue, message_id=invoice.order_id)


# Sync: a `def` runs in a thread, so a slow disk holds up this invoice and nothing else.
@handlers.consume(INVOICES, concurrency=4)
def write_invoice(invoice: Invoice, ctx: Context) -> None:
    """Write an invoice as a file."""
    content = orjson.dumps(invoice, option=orjson.OPT_INDENT_2)
    if not write_once(ctx.state.invoices / f"{invoice.order_id}.json", content):
        ctx.log.info("order %s came again; its invoice stays as it is", invoice.order_id)


# Batch: up to a hundred orders, or what came within a tenth of a second, in one transaction; one verdict for each.
@handlers.consume_batch(STOCK, size=100, wait=0.1)
def book(orders: list[Order], ctx: Context) -> list[Reject | None]:
    """Book what leaves the shelves."""
    verdicts = [Reject("a truck has to be ordered") if warehouse.needs_a_truck(order) else None for order in orders]
    ctx.state.warehouse.book(order for order, verdict in zip(orders, verdicts, strict=True) if verdict is None)
    return verdicts


# CPU-bound: a process of its own, so that computing holds up nobody, and can be killed when its time is up.
@handlers.consume(LABELS, cpu=True, prefetch=16, timeout=5)
def print_label(invoice: Invoice, ctx: Context) -> None:
    """Draw the label of the parcel."""
    write_once(ctx.state.labels / f"{invoice.order_id}.png", labels.draw(invoice.order_id))
