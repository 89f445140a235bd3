"""A queue whose process gives the broker no answer is not taken for an empty one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from mxworker.amqp.consuming import depth as depths
from mxworker.brokers import Brokers
from mxworker.errors import ChannelLost
from mxworker.letters.connecting import connected
from mxworker.letters.holding import depth
from tests.harness.error_texts import check
from tests.rabbit.client import Client
from tests.rabbit.node import Node

TEXTS = {"does not know how many messages it holds"}
"""What docs/error-texts.md has from here: another test that hangs a queue would take as long."""

MESSAGES = 7
WAIT_S = 60.0


@asynccontextmanager
async def hung(node: Node, queue: str) -> AsyncIterator[None]:
    """Let a queue answer nobody; the connections of this loop live on meanwhile."""
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, node.hung(queue))
        yield
        await asyncio.to_thread(stack.pop_all().close)


async def test_depth_of_a_queue_that_hangs_for_a_while_is_right(
    node: Node, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths, "_PATIENCE_S", WAIT_S)
    with Client(node.url) as client:
        client.declare_quorum(queue_name)
        client.publish(queue_name, [b"m"] * MESSAGES)
    async with connected(Brokers.parse([node.url]), WAIT_S) as connection:
        async with hung(node, queue_name):
            asking = asyncio.create_task(depth(connection, queue_name))
            await asyncio.sleep(1)
            assert not asking.done()
        assert await asking == MESSAGES


async def test_depth_of_a_queue_that_hangs_is_an_error(node: Node, queue_name: str) -> None:
    dead = f"{queue_name}.dlq"
    with Client(node.url) as client:
        client.declare_quorum(dead)
    async with connected(Brokers.parse([node.url]), WAIT_S) as connection:
        assert await depth(connection, dead) == 0
        async with hung(node, dead):
            with pytest.raises(ChannelLost) as failed:
                await depth(connection, dead)
    check("does not know how many messages it holds", f"Error: {failed.value}", queue=queue_name)
