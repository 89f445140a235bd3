"""Receipts: one outcome, for everybody who asks, whoever of them is cancelled; and the ways to wait for many."""

from __future__ import annotations

import asyncio

import pytest

from mxworker.amqp.publishing.unawaited import confirm_rest
from mxworker.api.receipts import (
    Confirmed,
    Receipt,
    all_confirmed,
    any_failed,
    drain,
    results,
    wait_all,
    wait_any,
)
from mxworker.errors import PublishError, PublishNacked
from tests.loop.loops import on_both_loops

SHORT_S = 0.02
REFUSED = PublishNacked("refused")


def receipt(end: PublishError | bool | None = False) -> Receipt:
    """Return an open receipt, or one that has ended in None, a confirmation, or in an error."""
    made = Receipt("an id")
    if not isinstance(end, bool):
        made.end(end)
    return made


@on_both_loops
async def test_every_task_that_awaits_a_receipt_is_told_even_when_one_is_cancelled() -> None:
    awaited = receipt()
    tasks = [asyncio.create_task(_result(awaited)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.wait({tasks[2]})
    assert tasks[2].cancelled()
    assert not awaited.done()
    awaited.end(None)
    told = [await task for task in tasks if task is not tasks[2]]
    assert [one.message_id for one in told] == ["an id"] * 4
    assert (await awaited).message_id == "an id"


@on_both_loops
async def test_every_task_that_awaits_a_failed_receipt_gets_its_error() -> None:
    awaited = receipt()
    tasks = [asyncio.create_task(_result(awaited)) for _ in range(3)]
    await asyncio.sleep(0)
    awaited.end(REFUSED)
    assert await asyncio.gather(*tasks, return_exceptions=True) == [REFUSED] * 3


@on_both_loops
async def test_task_cancelled_in_the_turn_of_the_outcome_is_cancelled() -> None:
    awaited = receipt()
    task = asyncio.create_task(_result(awaited))
    await asyncio.sleep(0)
    awaited.end(None)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert isinstance(awaited.result(), Confirmed)


@on_both_loops
async def test_waiters_that_were_cancelled_are_not_kept() -> None:
    awaited = receipt()
    for _ in range(1000):
        task = asyncio.create_task(_result(awaited))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert awaited._waiters is not None
    assert len(awaited._waiters) <= 2


async def test_open_receipt_tells_nothing() -> None:
    with pytest.raises(asyncio.InvalidStateError):
        receipt().result()
    with pytest.raises(asyncio.InvalidStateError):
        receipt().exception()
    assert not receipt().is_observed


@on_both_loops
async def test_wait_all_returns_outcomes_in_order() -> None:
    receipts = [receipt(), receipt(REFUSED), receipt()]
    loop = asyncio.get_running_loop()
    loop.call_soon(receipts[2].end, None)
    loop.call_later(0.01, receipts[0].end, REFUSED)
    outcomes = await wait_all(receipts)
    assert outcomes[:2] == [REFUSED, REFUSED]
    assert isinstance(outcomes[2], Confirmed)
    assert await wait_all([]) == []


@on_both_loops
async def test_wait_all_says_how_many_are_still_open() -> None:
    with pytest.raises(TimeoutError, match="2 of 3"):
        await wait_all([receipt(), receipt(None), receipt()], SHORT_S)


@on_both_loops
async def test_wait_any_returns_the_first_that_is_done() -> None:
    receipts = [receipt(), receipt(), receipt()]
    asyncio.get_running_loop().call_later(0.01, receipts[1].end, REFUSED)
    assert await wait_any(receipts) is receipts[1]
    with pytest.raises(TimeoutError, match="none of 2"):
        await wait_any([receipts[0], receipts[2]], SHORT_S)
    with pytest.raises(ValueError, match="no receipts"):
        await wait_any([])


@on_both_loops
async def test_drain_returns_what_is_still_open_and_raises_nothing() -> None:
    receipts = [receipt(REFUSED), receipt(), receipt(None), receipt()]
    asyncio.get_running_loop().call_soon(receipts[3].end, REFUSED)
    assert await drain(receipts, SHORT_S) == [receipts[1]]


@on_both_loops
async def test_cancelled_wait_stays_a_cancellation_and_leaves_the_receipt_alone() -> None:
    for wait in (wait_all, wait_any, drain):
        awaited = receipt()
        task = asyncio.create_task(wait([awaited]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not awaited.done()


async def test_what_is_known_now_can_be_asked_without_waiting() -> None:
    confirmed, failed, still_open = receipt(None), receipt(REFUSED), receipt()
    known = results([confirmed, failed, still_open])
    assert isinstance(known[0], Confirmed)
    assert known[1:] == [REFUSED, None]
    assert all_confirmed([confirmed, confirmed])
    assert not all_confirmed([confirmed, still_open])
    assert not all_confirmed([confirmed, failed])
    assert any_failed([still_open, confirmed, failed])
    assert not any_failed([still_open, confirmed])


@on_both_loops
async def test_confirm_rest_raises_the_first_failure_that_nobody_knows_of() -> None:
    known, unknown = receipt(REFUSED), receipt(PublishNacked("unknown"))
    assert known.exception() is REFUSED
    late = receipt()
    asyncio.get_running_loop().call_soon(late.end, None)
    await confirm_rest([known, late])
    assert late.is_observed
    with pytest.raises(PublishNacked, match="unknown"):
        await confirm_rest([known, late, unknown])


@on_both_loops
async def test_receipt_whose_await_was_cancelled_is_still_one_nobody_knows_of() -> None:
    awaited = receipt()
    task = asyncio.create_task(_result(awaited))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    awaited.end(REFUSED)
    with pytest.raises(PublishNacked):
        await confirm_rest([awaited])


async def _result(awaited: Receipt) -> Confirmed:
    return await awaited
