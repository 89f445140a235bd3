"""Handlers that fail while the broker takes no publishes: what cannot be copied waits, goes back, and nothing spins."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from mxworker import Context, Handlers, Reject
from mxworker.board.metrics_layout import Outcome
from mxworker.config.publisher import PublisherSettings
from tests.broker.workers import running
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

ALARM = ("set_vm_memory_high_watermark", "0.00001")
ALL_CLEAR = ("set_vm_memory_high_watermark", "0.4")
ALARM_S = 3.0
CONCURRENCY = 8
FAILING, REJECTED = 40, 10


async def test_memory_alarm_while_handlers_fail_loses_nothing_and_makes_no_hot_loop(
    own_node: Callable[..., Node],
) -> None:
    node = await asyncio.to_thread(own_node)
    handlers = Handlers()
    is_repaired = False
    executions: Counter[str] = Counter()
    done: set[str] = set()
    release = asyncio.Event()

    @handlers.consume("work", retry=FAST, concurrency=CONCURRENCY)
    async def take(body: str, ctx: Context) -> None:
        await release.wait()
        executions[body] += 1
        if body.startswith("reject"):
            raise Reject("never")
        if not is_repaired:
            raise ValueError("boom")
        done.add(body)

    failing = [f"fail-{number}" for number in range(FAILING)]
    rejected = [f"reject-{number}" for number in range(REJECTED)]
    settings = PublisherSettings(timeout_s=1.0, when_blocked="raise")  # so that no publish slows it down by waiting
    async with running(node.url, handlers, publisher=settings) as worker:
        with Client(node.url) as client:
            client.publish("work", (body.encode() for body in [*rejected, *failing]))
        await asyncio.to_thread(node.ctl, *ALARM)
        try:
            began_at = time.monotonic()
            release.set()
            await asyncio.sleep(ALARM_S)  # the fault is the time itself
            publisher = worker.service.parts.publisher
            await until(
                lambda: publisher.stats.is_blocked and worker.count(Outcome.REQUEUE), 30, "a delivery to go back"
            )
            alarm_s = time.monotonic() - began_at
            executed, given_back = executions.total(), worker.count(Outcome.REQUEUE)
            retried = worker.count(Outcome.RETRY)
        finally:
            await asyncio.to_thread(node.ctl, *ALL_CLEAR)
        is_repaired = True
        with Client(node.url) as client:
            await until(lambda: done >= set(failing), 30, "all to be handled")
            await until(lambda: client.counts("work.dlq").messages >= REJECTED, 30, "the dead letters")
            dead = {message.body.decode() for message in client.drain("work.dlq")}
    print(
        f"{alarm_s:.1f} s of alarm: {executed} executions, {given_back} given back, {retried} retried; then all handled"
    )
    assert executed <= CONCURRENCY * (alarm_s + 2), "a hot loop"
    assert dead == set(rejected)
