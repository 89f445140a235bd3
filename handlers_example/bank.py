"""A simulated bank: mostly quick, sometimes busy, and now and then unreachable.

Its answer depends only on the id of the order, so that every run is the same.
"""

from __future__ import annotations

import asyncio
from zlib import crc32

_ANSWERS_AFTER_S = 0.002


class Busy(Exception):
    """The bank asks for another attempt `after_s` seconds later."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"come again in {after_s:g} s")
        self.after_s = after_s


class Unreachable(Exception):
    """The bank does not answer."""


async def charge(order_id: str, cents: int, attempt: int) -> None:
    """Charge an order; a second call for it changes nothing. Raises Busy or Unreachable.

    A real bank would use the order's id as the idempotency key, and would not get the attempt.
    """
    await asyncio.sleep(_ANSWERS_AFTER_S)
    if is_unreachable_for(order_id):
        raise Unreachable(f"no answer to the request for {cents / 100:.2f}")
    if attempt == 1 and crc32(order_id.encode()) % 50 == 1:
        raise Busy(after_s=0.4)


def is_unreachable_for(order_id: str) -> bool:
    """Tell whether the bank never answers for this order, which is one in two hundred."""
    return crc32(order_id.encode()) % 200 == 0
