"""Publish orders to the shop for as long as it runs, some of them bad: about twenty a second."""

from __future__ import annotations

import asyncio
import itertools
import os

from handlers_example.demo.orders import samples
from handlers_example.shop import ORDERS
from mxworker import Publisher

ROUND = 10_000
PAUSE_S = 0.05


async def main() -> None:
    """Publish until the process is stopped."""
    async with Publisher.connect(os.environ["MXWORKER_BROKER_URL"], name="orders") as publisher:
        for number in itertools.count():
            for sample in samples(ROUND):
                await publisher.publish(sample.body, routing_key=ORDERS, message_id=f"{number}-{sample.id}")
                await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main())
