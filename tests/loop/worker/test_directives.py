"""A worker obeys the directives, and leaves alone what others paused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from pamqp import commands

from mxworker.api.delivery import Delivery
from mxworker.board.directives import no_directives
from mxworker.worker.directives import DirectiveFollower, apply_log_level
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, consuming, sent
from tests.loop.loops import on_both_loops


@pytest.fixture
def root_level() -> Iterator[None]:
    former = logging.getLogger().level
    yield
    logging.getLogger().setLevel(former)


def ignore(delivery: Delivery) -> None:
    pass


@on_both_loops
async def test_queue_is_paused_and_resumed_as_ordered() -> None:
    orders = no_directives()
    async with consuming(ignore) as lent:
        directives = DirectiveFollower(orders, [lent.consumer])
        directives.look()
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        for pause, resume in (
            (orders.pause_all, orders.resume_all),
            (lambda: orders.pause(QUEUE.name), lambda: orders.resume(QUEUE.name)),
        ):
            pause()
            directives.look()
            await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
            resume()
            directives.look()
            await until(lambda: lent.consumer.is_consuming, SOON_S)
        orders.pause("another queue")
        directives.look()
        assert lent.consumer.is_consuming


async def test_worker_that_starts_while_its_queue_is_paused_never_consumes() -> None:
    orders = no_directives()
    orders.pause_all()
    async with consuming(ignore) as lent:
        DirectiveFollower(orders, [lent.consumer]).look()
        lent.start()
        await until(lambda: lent.consumer.is_as_wanted, SOON_S)
        assert sent(lent.peer, commands.Basic.Consume) == 0


async def test_what_others_paused_stays_paused() -> None:
    orders = no_directives()
    async with consuming(ignore) as lent:
        directives = DirectiveFollower(orders, [lent.consumer])
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.consumer.pause("circuit breaker")
        orders.pause_all()
        directives.look()
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        orders.resume_all()
        directives.look()
        await asyncio.sleep(0.1)  # for what must not happen
        assert lent.consumer.consumer_tag is None
        lent.consumer.resume("circuit breaker")
        await until(lambda: lent.consumer.is_consuming, SOON_S)


async def test_looking_again_does_nothing() -> None:
    orders = no_directives()
    async with consuming(ignore) as lent:
        directives = DirectiveFollower(orders, [lent.consumer])
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        orders.pause_all()
        for _ in range(5):
            directives.look()
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        lent.consumer.resume("operator")
        directives.look()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert sent(lent.peer, commands.Basic.Cancel) == 1


@pytest.mark.usefixtures("root_level")
def test_level_of_the_log_is_changed_only_when_it_is_ordered() -> None:
    orders = no_directives()
    logging.getLogger().setLevel(logging.WARNING)
    apply_log_level(orders)
    assert logging.getLogger().level == logging.WARNING
    orders.set_log_level(logging.DEBUG)
    apply_log_level(orders)
    assert logging.getLogger().level == logging.DEBUG
