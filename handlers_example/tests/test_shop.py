"""The handlers of the shop, one by one and together, without a broker and without waiting."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from handlers_example import bank, pricing, shop
from handlers_example.tests.orders import busy_id, order, paid_id, unreachable_id
from mxworker import Ack, Reject, Retry
from mxworker.errors import DecodeError
from mxworker.testing import TestWorker

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestWorker]:
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path))
    async with TestWorker(shop.handlers) as worker:
        yield worker


async def test_order_is_priced_and_sent_on(worker: TestWorker) -> None:
    result = await worker.deliver(shop.ORDERS, order(paid_id()))
    assert isinstance(result.settlement, Ack)
    invoice = worker.assert_published(shop.PAYMENTS, times=1).payload
    assert (invoice["net_cents"], invoice["vat_cents"]) == (2 * 1299, 494)
    worker.assert_published(shop.STOCK, order(paid_id()))


async def test_order_leads_to_an_invoice_and_a_label(worker: TestWorker, tmp_path: Path) -> None:
    await worker.deliver(shop.ORDERS, order(paid_id()))  # returns when the messages that it led to are handled, too
    assert json.loads((tmp_path / "invoices" / f"{paid_id()}.json").read_text())["customer"] == "Ada"
    assert (tmp_path / "labels" / f"{paid_id()}.png").read_bytes().startswith(b"\x89PNG")


async def test_order_that_can_never_be_priced_is_a_dead_letter_with_the_reason(worker: TestWorker) -> None:
    result = await worker.deliver(shop.ORDERS, order("o1", article="yacht"))
    assert isinstance(result.settlement, Reject)
    (dead,) = worker.dead_letters(shop.ORDERS)
    assert dead.headers["mx-error"] == "there is no article 'yacht'"
    assert worker.published == []


async def test_body_that_is_no_order_does_not_reach_the_handler(worker: TestWorker) -> None:
    await worker.deliver(shop.ORDERS, {"id": "o1"}, expect=DecodeError)


async def test_busy_bank_is_asked_again_when_it_said(worker: TestWorker) -> None:
    invoice = pricing.price(pricing.Order(busy_id(), "Ada", [pricing.OrderLine("mug", 1)]))
    result = await worker.deliver(shop.PAYMENTS, invoice)
    assert isinstance(result.settlement, Retry)
    assert await worker.advance(0.4) == []  # the next delay of the policy is half a second
    ended = await worker.advance(0.1)
    assert {result.handler: result.attempt for result in ended} == {"charge": 2, "write_invoice": 1, "print_label": 1}


async def test_bank_that_never_answers_is_tried_four_times(worker: TestWorker) -> None:
    invoice = pricing.price(pricing.Order(unreachable_id(), "Ada", [pricing.OrderLine("mug", 1)]))
    await worker.deliver(shop.PAYMENTS, invoice, expect=bank.Unreachable)
    retries = await worker.advance(0.2 + 0.5 + 1.0, expect=bank.Unreachable)
    assert [retry.attempt for retry in retries] == [2, 3, 4]
    (dead,) = worker.dead_letters(shop.PAYMENTS)
    assert dead.headers["mx-attempts"] == 4
    assert dead.headers["mx-error-type"] == "Unreachable"


async def test_batch_has_a_verdict_for_each_order(worker: TestWorker) -> None:
    results = await worker.deliver_many(shop.STOCK, [order("o1"), order("o2", quantity=501), order("o3")])
    assert [type(result.settlement) for result in results] == [Ack, Reject, Ack]


async def test_order_that_comes_twice_has_one_invoice(worker: TestWorker, tmp_path: Path) -> None:
    for _ in range(2):
        await worker.deliver(shop.ORDERS, order(paid_id()))
    assert len(list((tmp_path / "invoices").glob("*.json"))) == 1
