"""When messages are ready and none is delivered, and when that is no fault."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pamqp import commands

from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.reconcile import Reconciler
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, Looked, consuming, sent
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")


@pytest.mark.parametrize(
    ("parameters", "consumers", "is_fault"),
    [
        ({}, 1, True),
        ({}, 2, True),
        ({"consumer_priority": 1}, 2, True),
        ({"consumer_priority": -1}, 2, False),
        ({"consumer_priority": -1}, 1, True),
        ({"single_active_consumer": True}, 2, False),
        ({"single_active_consumer": True}, 1, True),
    ],
)
@on_both_loops
async def test_messages_that_may_be_meant_for_others_are_no_alarm(
    parameters: dict[str, Any], consumers: int, is_fault: bool
) -> None:
    looked = Looked(consumers)
    async with consuming(lambda *came: None, looked.script, queue=replace(QUEUE, **parameters)) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.reconcile()
        if is_fault:
            await until(lambda: sent(lent.peer, commands.Basic.Consume) == 2, SOON_S, "it to be replaced")
        else:
            await until(lambda: looked.times == 5, SOON_S, "five looks")
            await asyncio.sleep(0)
            assert sent(lent.peer, commands.Basic.Consume) == 1


@on_both_loops
async def test_a_consumer_that_is_made_after_the_reconciler_is_watched() -> None:
    async with consuming(lambda *came: None, Looked().script) as lent:
        consumers: list[Consumer] = []
        reconciler = Reconciler(lent.link, consumers, look_every_s=0.02)
        consumers.append(lent.consumer)
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.running.append(asyncio.create_task(reconciler.run()))
        await until(lambda: sent(lent.peer, commands.Basic.Consume) == 2, SOON_S, "it to be replaced")
