"""Orders and their prices. Plain business code without queues, files or clocks.

Money is counted in whole cents, so that no binary fraction loses any.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MAX_LINES = 100
MAX_QUANTITY = 1_000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")  # an id becomes a file name, so no dots and no slashes


class InvalidOrder(Exception):
    """The order can never be priced. The text says why."""


@dataclass(frozen=True, slots=True)
class Article:
    """An article that the shop sells. Prices are net; `vat_percent` is the VAT rate of the article."""

    name: str
    net_cents: int
    vat_percent: int


CATALOGUE = {
    "beans-1kg": Article("Espresso beans, 1 kg", 1_890, 7),
    "grinder": Article("Hand grinder", 5_450, 19),
    "mug": Article("Mug, stoneware", 1_299, 19),
    "tea-100g": Article("Green tea, 100 g", 845, 7),
    "book": Article("The Book of Crema", 2_395, 7),
}


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One article of an order, and its quantity."""

    article: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order of a customer, as in the messages of the queue `orders`."""

    id: str
    customer: str
    lines: Sequence[OrderLine]


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line of an invoice."""

    text: str
    quantity: int
    net_cents: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """The invoice of an order."""

    order_id: str
    customer: str
    lines: Sequence[InvoiceLine]
    net_cents: int
    vat_cents: int
    total_cents: int


def price(order: Order) -> Invoice:
    """Return the invoice of `order`, with VAT on the sum of the lines of each rate. Raises InvalidOrder."""
    _check(order)
    lines = [_priced(line) for line in order.lines]
    net_by_rate: dict[int, int] = defaultdict(int)
    for ordered, priced in zip(order.lines, lines, strict=True):
        net_by_rate[CATALOGUE[ordered.article].vat_percent] += priced.net_cents
    net_cents = sum(net_by_rate.values())
    vat_cents = sum(vat_of(net, percent) for percent, net in net_by_rate.items())
    return Invoice(order.id, order.customer, lines, net_cents, vat_cents, net_cents + vat_cents)


def _check(order: Order) -> None:
    if not _ID.fullmatch(order.id):
        raise InvalidOrder(f"'id' must be 1 to 64 letters, digits and hyphens, not {_shown(order.id)}")
    if not order.customer:
        raise InvalidOrder("'customer' must not be empty")
    if not 1 <= len(order.lines) <= MAX_LINES:
        raise InvalidOrder(f"an order has 1 to {MAX_LINES} lines, not {len(order.lines)}")
    for line in order.lines:
        if line.article not in CATALOGUE:
            raise InvalidOrder(f"there is no article {_shown(line.article)}")
        if not 1 <= line.quantity <= MAX_QUANTITY:
            raise InvalidOrder(f"'quantity' must be from 1 to {MAX_QUANTITY}, not {_shown(line.quantity)}")


def _shown(value: object) -> str:
    """Return `value` short enough for a log line."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _priced(line: OrderLine) -> InvoiceLine:
    article = CATALOGUE[line.article]
    return InvoiceLine(article.name, line.quantity, article.net_cents * line.quantity)


def vat_of(net_cents: int, percent: int) -> int:
    """Return the VAT on an amount that is not negative; half a cent is rounded up."""
    return (net_cents * percent + 50) // 100
