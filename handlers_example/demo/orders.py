"""Generated orders, the same in every run.

One in fifty is bad in a way that happens in practice. One in two hundred is too large for one person.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import orjson

from handlers_example.pricing import CATALOGUE

BAD_EVERY = 50
BULK_EVERY = 200
_BULK_QUANTITY = 600
_ARTICLES = tuple(CATALOGUE)


class Kind(Enum):
    """How the shop must treat an order."""

    PLAIN = auto()
    BULK = auto()
    BAD = auto()


@dataclass(frozen=True, slots=True)
class Sample:
    """The body and the id of a message."""

    id: str
    body: bytes
    kind: Kind


def samples(count: int) -> Iterator[Sample]:
    """Yield `count` orders, with the kinds of bad orders in rotation."""
    rng = random.Random(count)
    for number in range(1, count + 1):
        order = _order(f"order-{number:06d}", rng)
        turn, rest = divmod(number, BAD_EVERY)
        kind = Kind.PLAIN
        if rest == 0:
            kind = Kind.BAD
        elif number % BULK_EVERY == 1:
            kind = Kind.BULK
            order["lines"][0]["quantity"] = _BULK_QUANTITY
        yield Sample(order["id"], _spoilt(order, turn) if kind is Kind.BAD else orjson.dumps(order), kind)


def _order(order_id: str, rng: random.Random) -> dict[str, Any]:
    articles = rng.sample(_ARTICLES, rng.randint(1, 3))
    return {
        "id": order_id,
        "customer": f"customer-{rng.randint(1, 500):03d}",
        "lines": [{"article": article, "quantity": rng.randint(1, 9)} for article in articles],
    }


def _spoilt(order: dict[str, Any], turn: int) -> bytes:
    line = order["lines"][0]
    match turn % 6:
        case 0:
            line["article"] = "unobtainium"
        case 1:
            line["quantity"] = -1
        case 2:
            line["quantity"] = "three"
        case 3:
            del order["customer"]
        case 4:
            return b"<order><article>mug</article></order>"  # not JSON
        case _:
            return orjson.dumps([order])  # JSON, but not an object
    return orjson.dumps(order)
