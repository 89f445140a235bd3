"""A worker obeys the directives, and leaves alone what others paused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from pamqp import commands

from mxworker.api.delivery import Delivery
from mxworker.board.directives import Directives, no_directives
from mxworker.worker.directives import DirectiveFollower, apply_log_level
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, Consuming, consuming, sent
from tests.loop.loops import on_both_loops


@pytest.fixture
def root_level() -> Iterator[None]:
    former = logging.getLogger().level
    yield
    logging.getLogger().setLevel(former)


def ignore(*came: Delivery) -> None:
    pass


@asynccontextmanager
async def following(directives: Directives) -> AsyncIterator[tuple[Consuming, DirectiveFollower]]:
    """Lend a consumer that consumes, and what makes it obey `directives`."""
    async with consuming(ignore) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        yield lent, DirectiveFollower(directives, [lent.consumer])


@on_both_loops
async def test_queue_is_paused_and_resumed_as_ordered() -> None:
    directives = no_directives()
    async with consuming(ignore) as lent:
        follower = DirectiveFollower(directives, [lent.consumer])
        follower.look()
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        for pause, resume in (
            (directives.pause_all, directives.resume_all),
            (lambda: directives.pause(QUEUE.name), lambda: directives.resume(QUEUE.name)),
        ):
            pause()
            follower.look()
            await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
            resume()
            follower.look()
            await until(lambda: lent.consumer.is_consuming, SOON_S)
        directives.pause("another queue")
        follower.look()
        assert lent.consumer.is_consuming


async def test_worker_that_starts_while_its_queue_is_paused_never_consumes() -> None:
    directives = no_directives()
    directives.pause_all()
    async with consuming(ignore) as lent:
        DirectiveFollower(directives, [lent.consumer]).look()
        lent.start()
        await until(lambda: lent.consumer.is_as_wanted, SOON_S)
        assert sent(lent.peer, commands.Basic.Consume) == 0


async def test_what_others_paused_stays_paused() -> None:
    directives = no_directives()
    async with following(directives) as (lent, follower):
        lent.consumer.pause("circuit breaker")
        directives.pause_all()
        follower.look()
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        directives.resume_all()
        follower.look()
        await asyncio.sleep(0.1)  # for what must not happen
        assert lent.consumer.consumer_tag is None
        lent.consumer.resume("circuit breaker")
        await until(lambda: lent.consumer.is_consuming, SOON_S)


async def test_looking_again_does_nothing() -> None:
    directives = no_directives()
    async with following(directives) as (lent, follower):
        directives.pause_all()
        for _ in range(5):
            follower.look()
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        lent.consumer.resume("operator")
        follower.look()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert sent(lent.peer, commands.Basic.Cancel) == 1


@pytest.mark.usefixtures("root_level")
def test_level_of_the_log_is_changed_only_when_it_is_ordered() -> None:
    directives = no_directives()
    logging.getLogger().setLevel(logging.WARNING)
    apply_log_level(directives)
    assert logging.getLogger().level == logging.WARNING
    directives.set_log_level(logging.DEBUG)
    apply_log_level(directives)
    assert logging.getLogger().level == logging.DEBUG
