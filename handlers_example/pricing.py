"""What an order means and what it costs. Plain code about the business: no queue, no file, no clock.

Money is whole cents, so nothing is ever lost to a binary fraction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_LINES = 100
MAX_QUANTITY = 1_000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")  # it names a file later: no dots, no slashes


class InvalidOrder(Exception):
    """The order cannot be priced, now or ever; the text says why."""


@dataclass(frozen=True, slots=True)
class Article:
    """What the shop sells. Prices are net; `vat_percent` is the rate of the article."""

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
    """One article of an order, and how many of it."""

    article: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Order:
    """A checked order: every article exists, every quantity makes sense."""

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
    """What the customer owes."""

    order_id: str
    customer: str
    lines: Sequence[InvoiceLine]
    net_cents: int
    vat_cents: int
    total_cents: int


def read_order(payload: dict[str, Any]) -> Order:
    """Return the order that `payload` holds. Raises InvalidOrder."""
    order_id, customer, lines = payload.get("id"), payload.get("customer"), payload.get("lines")
    if not isinstance(order_id, str) or not _ID.fullmatch(order_id):
        raise InvalidOrder(f"'id' must be 1 to 64 letters, digits and hyphens, not {_shown(order_id)}")
    if not isinstance(customer, str) or not customer:
        raise InvalidOrder(f"'customer' must be a text, not {_shown(customer)}")
    if not isinstance(lines, list) or not 1 <= len(lines) <= MAX_LINES:
        raise InvalidOrder(f"'lines' must be a list of 1 to {MAX_LINES} lines")
    return Order(order_id, customer, [_read_line(line) for line in lines])


def _read_line(line: Any) -> OrderLine:
    if not isinstance(line, dict):
        raise InvalidOrder(f"a line must be an object, not {_shown(line)}")
    article, quantity = line.get("article"), line.get("quantity")
    if not isinstance(article, str) or article not in CATALOGUE:
        raise InvalidOrder(f"there is no article {_shown(article)}")
    if type(quantity) is not int:  # not isinstance: True is an int too, and nobody orders True mugs
        raise InvalidOrder(f"'quantity' must be a whole number, not {_shown(quantity)}")
    if not 1 <= quantity <= MAX_QUANTITY:
        raise InvalidOrder(f"'quantity' must be from 1 to {MAX_QUANTITY}, not {quantity}")
    return OrderLine(article, quantity)


def _shown(value: Any) -> str:
    """Return `value` short enough for a log line."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def price(order: Order) -> Invoice:
    """Return the invoice of `order`. VAT is computed per rate, on the sum of that rate's lines."""
    lines = [_priced(line) for line in order.lines]
    net_by_rate: dict[int, int] = defaultdict(int)
    for ordered, priced in zip(order.lines, lines, strict=True):
        net_by_rate[CATALOGUE[ordered.article].vat_percent] += priced.net_cents
    net_cents = sum(net_by_rate.values())
    vat_cents = sum(vat_of(net, percent) for percent, net in net_by_rate.items())
    return Invoice(order.id, order.customer, lines, net_cents, vat_cents, net_cents + vat_cents)


def _priced(line: OrderLine) -> InvoiceLine:
    article = CATALOGUE[line.article]
    return InvoiceLine(article.name, line.quantity, article.net_cents * line.quantity)


def vat_of(net_cents: int, percent: int) -> int:
    """Return the VAT on an amount that is not negative, half a cent rounded up."""
    return (net_cents * percent + 50) // 100
