"""Orders to test with. The bank decides by the id of an order, so the ids are searched for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from zlib import crc32

from handlers_example import bank


def order(order_id: str, article: str = "mug", quantity: int = 2) -> dict[str, Any]:
    """Return an order as other services send it."""
    return {"id": order_id, "customer": "Ada", "lines": [{"article": article, "quantity": quantity}]}


def paid_id() -> str:
    """Return the id of an order that the bank charges at once."""
    return _id_for(lambda order_id: not bank.is_unreachable_for(order_id) and crc32(order_id.encode()) % 50 != 1)


def busy_id() -> str:
    """Return the id of an order for which the bank is busy at first."""
    return _id_for(lambda order_id: crc32(order_id.encode()) % 50 == 1)


def unreachable_id() -> str:
    """Return the id of an order for which the bank never answers."""
    return _id_for(bank.is_unreachable_for)


def _id_for(is_fit: Callable[[str], bool]) -> str:
    return next(order_id for order_id in map("order-{}".format, count()) if is_fit(order_id))
