"""A request that is cancelled at any moment costs its channel, and never the connection with its deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.brokers import BrokerUrl


async def _when_it_has_begun_to_end(channel: Any, request: Any) -> None:
    """Cancel `request` between the library's close-ok and the end of its channel."""
    task = asyncio.ensure_future(request)
    await channel._Channel__close_event.wait()
    task.cancel()
    await asyncio.wait({task})


@pytest.fixture
async def connection(broker_url: str) -> AsyncIterator[BrokerConnection]:
    loop = asyncio.get_running_loop()
    connection = await BrokerConnection.open(BrokerUrl.parse(broker_url), "cancelled", loop.time() + 60)
    yield connection
    await connection.close()


async def _still_answers(connection: BrokerConnection) -> bool:
    """Tell whether the broker answers a request on a new channel."""
    channel = await connection.channel()
    await connection.close_channel(channel)
    return not connection.plane.lost.done()


async def test_request_cancelled_while_the_broker_closes_its_channel_leaves_the_connection(
    connection: BrokerConnection,
) -> None:
    for _ in range(10):
        underlay = await (await connection.channel()).get_underlay_channel()
        await _when_it_has_begun_to_end(underlay, underlay.queue_declare("test-absent", passive=True))
        assert await _still_answers(connection)
