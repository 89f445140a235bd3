"""The shop of `handlers_example`: what it takes and refuses, what things cost, and one invoice for each order."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers_example import invoices, pricing, shop
from handlers_example.demo.orders import BAD_EVERY, bad_among, samples
from handlers_example.pricing import CATALOGUE, InvalidOrder, Invoice, price, read_order, vat_of
from mxworker import Context, Delivery, Reject
from mxworker.context import Surroundings
from tests.harness.nowhere import Nowhere

GOOD: dict[str, Any] = {"id": "order-1", "customer": "customer-7", "lines": [{"article": "mug", "quantity": 2}]}


def context() -> Context:
    return Context(Delivery(b"", b"", b"", False, 1, Nowhere()), Surroundings("orders", "order"))


def with_line(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "lines": [{**GOOD["lines"][0], **changes}]}


# Pricing


def test_an_order_is_priced_net_plus_vat() -> None:
    invoice = price(read_order(GOOD))
    assert (invoice.net_cents, invoice.vat_cents, invoice.total_cents) == (2_598, 494, 3_092)


def test_vat_is_computed_on_the_sum_of_each_rate() -> None:
    # Line by line, 7 % of 845, 1890 and 2395 would round to 59 + 132 + 168 = 359; on their sum it is 359.1.
    articles = ["tea-100g", "beans-1kg", "book", "mug"]
    invoice = price(read_order({**GOOD, "lines": [{"article": article, "quantity": 1} for article in articles]}))
    assert invoice.vat_cents == vat_of(845 + 1_890 + 2_395, 7) + vat_of(1_299, 19)


def test_many_small_lines_do_not_add_up_rounding_errors() -> None:
    invoice = price(read_order({**GOOD, "lines": [{"article": "tea-100g", "quantity": 1}] * 100}))
    assert invoice.vat_cents == 5_915
    assert 100 * vat_of(845, 7) == 5_900


@pytest.mark.parametrize(("net_cents", "percent", "vat_cents"), [(0, 19, 0), (50, 1, 1), (49, 1, 0), (100, 19, 19)])
def test_half_a_cent_of_vat_is_rounded_up(net_cents: int, percent: int, vat_cents: int) -> None:
    assert vat_of(net_cents, percent) == vat_cents


@given(st.lists(st.tuples(st.sampled_from(sorted(CATALOGUE)), st.integers(1, 1_000)), min_size=1, max_size=100))
def test_an_invoice_adds_up(lines: list[tuple[str, int]]) -> None:
    invoice = price(read_order({**GOOD, "lines": [{"article": name, "quantity": count} for name, count in lines]}))
    assert invoice.net_cents == sum(line.net_cents for line in invoice.lines)
    assert invoice.total_cents == invoice.net_cents + invoice.vat_cents
    assert 7 * invoice.net_cents <= 100 * invoice.vat_cents + 100
    assert 100 * invoice.vat_cents <= 19 * invoice.net_cents + 100


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, "'id'"),
        ({**GOOD, "id": 7}, "'id'"),
        ({**GOOD, "id": "../../etc/passwd"}, "'id'"),
        ({**GOOD, "id": "order-1\n"}, "'id'"),
        ({**GOOD, "id": "x" * 65}, "'id'"),
        ({**GOOD, "customer": None}, "'customer'"),
        ({**GOOD, "lines": []}, "'lines'"),
        ({**GOOD, "lines": {"mug": 1}}, "'lines'"),
        ({**GOOD, "lines": GOOD["lines"] * 101}, "'lines'"),
        ({**GOOD, "lines": ["mug"]}, "an object"),
        (with_line(article="unobtainium"), "no article 'unobtainium'"),
        (with_line(article=["mug"]), "no article"),
        (with_line(article="x" * 10_000), "no article"),
        (with_line(quantity=-1), "not -1"),
        (with_line(quantity=0), "not 0"),
        (with_line(quantity=1_001), "not 1001"),
        (with_line(quantity="three"), "not 'three'"),
        (with_line(quantity=1.0), "not 1.0"),
        (with_line(quantity=True), "not True"),
    ],
)
def test_a_bad_order_is_refused_with_its_reason(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOrder) as refused:
        read_order(payload)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 120


# Invoices


def an_invoice(order_id: str = "order-1", customer: str = "customer-7") -> Invoice:
    return price(read_order({**GOOD, "id": order_id, "customer": customer}))


def test_a_second_invoice_of_an_order_changes_nothing(tmp_path: Path) -> None:
    assert invoices.write(tmp_path, an_invoice(customer="the first"))
    assert not invoices.write(tmp_path, an_invoice(customer="the second"))
    assert [path.name for path in tmp_path.iterdir()] == ["order-1.json"]
    assert orjson.loads((tmp_path / "order-1.json").read_bytes())["customer"] == "the first"


def test_writers_of_the_same_order_at_once_leave_one_whole_invoice(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on demand"
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: invoices.write(folder, an_invoice()), range(200)))
    assert written.count(True) == 1
    assert [path.name for path in folder.iterdir()] == ["order-1.json"]
    assert orjson.loads((folder / "order-1.json").read_bytes())["total_cents"] == 3_092


# The handler


async def test_the_handler_writes_the_invoice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "INVOICES", tmp_path)
    await shop.order(GOOD, context())
    assert orjson.loads((tmp_path / "order-1.json").read_bytes()) == {
        "order_id": "order-1",
        "customer": "customer-7",
        "lines": [{"text": "Mug, stoneware", "quantity": 2, "net_cents": 2_598}],
        "net_cents": 2_598,
        "vat_cents": 494,
        "total_cents": 3_092,
    }


async def test_the_handler_refuses_a_bad_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "INVOICES", tmp_path)
    with pytest.raises(Reject) as refused:
        await shop.order(with_line(quantity=-1), context())
    assert "not -1" in refused.value.reason
    assert os.listdir(tmp_path) == []  # noqa: PTH208  a blocking call less in a loop


async def test_a_redelivered_order_is_done_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shop, "INVOICES", tmp_path)
    caplog.set_level(logging.INFO)
    await asyncio.gather(*(shop.order(GOOD, context()) for _ in range(3)))
    assert caplog.text.count("order-1 came again") == 2


def test_the_shop_is_what_a_worker_can_run() -> None:
    (handler,) = shop.handlers.compile()
    assert (handler.name, handler.queue.name, handler.wants_context) == ("order", "orders", True)


# The demo's orders


def test_exactly_the_announced_number_of_demo_orders_is_bad() -> None:
    refused = sum(is_refused(sample.body) for sample in samples(1_000))
    assert refused == bad_among(1_000) == 1_000 // BAD_EVERY


def test_demo_orders_are_bad_in_several_ways() -> None:
    bad = [sample.body for sample in samples(BAD_EVERY * 6) if is_refused(sample.body)]
    assert len(bad) == len({reason_against(body) for body in bad}) == 6


def test_demo_orders_have_ids_of_their_own() -> None:
    assert len({sample.id for sample in samples(500)}) == 500


def is_refused(body: bytes) -> bool:
    return reason_against(body) is not None


def reason_against(body: bytes) -> str | None:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "not JSON"
    if not isinstance(payload, dict):
        return "not an object"
    try:
        pricing.read_order(payload)
    except InvalidOrder as error:
        return str(error)
    return None
