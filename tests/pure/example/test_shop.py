"""The shop of `handlers_example`: what it takes and refuses, what things cost, and each thing written once."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers_example import bank, labels, shop, warehouse
from handlers_example.files import write_once
from handlers_example.pricing import CATALOGUE, InvalidOrder, Invoice, Order, OrderLine, price, vat_of
from handlers_example.shop import Shop
from mxworker import Context, Delivery, Reject, Retry
from mxworker.api.compilation import HandlerKind
from mxworker.api.context import HandlerScope, WorkerResources
from mxworker.api.decoder import decoder_for
from mxworker.api.handlers import compile_handlers
from mxworker.errors import DecodeError
from tests.harness.nowhere import Nowhere

GOOD = Order("order-1", "customer-7", [OrderLine("mug", 2)])


class Published:
    """Takes down what a handler publishes."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, Any]] = []

    async def publish(self, body: Any, *, routing_key: str, message_id: str) -> None:
        self.messages.append((routing_key, message_id, body))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Shop]:
    for folder in ("invoices", "labels"):
        (tmp_path / folder).mkdir()
    with warehouse.opened(tmp_path / "stock.sqlite") as stock:
        yield Shop(tmp_path / "invoices", tmp_path / "labels", stock)


def context(state: Shop | None = None, published: Published | None = None) -> Context:
    resources = cast(WorkerResources, Publishing(published)) if published is not None else None
    return Context(a_delivery(b""), HandlerScope("orders", "order", state=state, resources=resources))


class Publishing:
    """WorkerResources that has a publisher and nothing else."""

    def __init__(self, publisher: Published) -> None:
        self.publisher = publisher


def a_delivery(body: bytes) -> Delivery:
    return Delivery(body, b"\0\0", b"", False, 1, Nowhere())


def of(*lines: tuple[str, int]) -> Order:
    return replace(GOOD, lines=[OrderLine(article, quantity) for article, quantity in lines])


# Pricing


def test_an_order_is_priced_net_plus_vat() -> None:
    invoice = price(GOOD)
    assert (invoice.net_cents, invoice.vat_cents, invoice.total_cents) == (2_598, 494, 3_092)


def test_vat_is_computed_on_the_sum_of_each_rate() -> None:
    # Line by line, 7 % of 845, 1890 and 2395 would round to 59 + 132 + 168 = 359; on their sum it is 359.1.
    invoice = price(of(*((article, 1) for article in ("tea-100g", "beans-1kg", "book", "mug"))))
    assert invoice.vat_cents == vat_of(845 + 1_890 + 2_395, 7) + vat_of(1_299, 19)


def test_many_small_lines_do_not_add_up_rounding_errors() -> None:
    invoice = price(of(*[("tea-100g", 1)] * 100))
    assert invoice.vat_cents == 5_915
    assert 100 * vat_of(845, 7) == 5_900


@pytest.mark.parametrize(("net_cents", "percent", "vat_cents"), [(0, 19, 0), (50, 1, 1), (49, 1, 0), (100, 19, 19)])
def test_half_a_cent_of_vat_is_rounded_up(net_cents: int, percent: int, vat_cents: int) -> None:
    assert vat_of(net_cents, percent) == vat_cents


@given(st.lists(st.tuples(st.sampled_from(sorted(CATALOGUE)), st.integers(1, 1_000)), min_size=1, max_size=100))
def test_an_invoice_adds_up(lines: list[tuple[str, int]]) -> None:
    invoice = price(of(*lines))
    assert invoice.net_cents == sum(line.net_cents for line in invoice.lines)
    assert invoice.total_cents == invoice.net_cents + invoice.vat_cents
    assert 7 * invoice.net_cents <= 100 * invoice.vat_cents + 100
    assert 100 * invoice.vat_cents <= 19 * invoice.net_cents + 100


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (replace(GOOD, id="../../etc/passwd"), "'id'"),
        (replace(GOOD, id="order-1\n"), "'id'"),
        (replace(GOOD, id="x" * 65), "'id'"),
        (replace(GOOD, id="x" * 10_000), "'id'"),
        (replace(GOOD, customer=""), "'customer'"),
        (of(), "not 0"),
        (of(*[("mug", 1)] * 101), "not 101"),
        (of(("unobtainium", 1)), "no article 'unobtainium'"),
        (of(("x" * 10_000, 1)), "no article"),
        (of(("mug", -1)), "not -1"),
        (of(("mug", 0)), "not 0"),
        (of(("mug", 1_001)), "not 1001"),
    ],
)
def test_a_bad_order_is_refused_with_its_reason(order: Order, reason: str) -> None:
    with pytest.raises(InvalidOrder) as refused:
        price(order)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"id": 7, "customer": "c", "lines": []}',
        b'{"id": "order-1", "customer": null, "lines": []}',
        b'{"id": "order-1", "customer": "c", "lines": {"mug": 1}}',
        b'{"id": "order-1", "customer": "c", "lines": ["mug"]}',
        b'{"id": "order-1", "customer": "c", "lines": [{"article": ["mug"], "quantity": 1}]}',
        b'{"id": "order-1", "customer": "c", "lines": [{"article": "mug", "quantity": "three"}]}',
        b'{"id": "order-1", "customer": "c", "lines": [{"article": "mug", "quantity": 1.0}]}',
        b'{"id": "order-1", "customer": "c", "lines": [{"article": "mug", "quantity": true}]}',
    ],
)
def test_a_body_of_another_form_never_reaches_the_handler(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decoder_for(Order)(a_delivery(body), body)


# The bank


def id_where(fits: Any) -> str:
    return next(order_id for order_id in (f"order-{number}" for number in range(10_000)) if fits(order_id))


async def is_busy(order_id: str, attempt: int = 1) -> bool:
    try:
        await bank.charge(order_id, 100, attempt)
    except bank.Busy:
        return True
    return False


async def test_one_order_in_two_hundred_is_never_paid_whatever_the_attempt() -> None:
    order_id = id_where(bank.is_unreachable_for)
    for attempt in range(1, 5):
        with pytest.raises(bank.Unreachable):
            await bank.charge(order_id, 100, attempt)
    assert 20 < sum(bank.is_unreachable_for(f"order-{number:06d}") for number in range(10_000)) < 80


async def test_a_busy_bank_takes_the_second_attempt() -> None:
    ids = [f"order-{number}" for number in range(1_000) if not bank.is_unreachable_for(f"order-{number}")]
    busy = [order_id for order_id, one in zip(ids, await asyncio.gather(*map(is_busy, ids)), strict=True) if one]
    assert 5 < len(busy) < 50
    assert not any(await asyncio.gather(*(is_busy(order_id, attempt=2) for order_id in busy)))


# Files


def test_a_second_file_of_one_name_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "order-1.json"
    assert write_once(path, b"the first")
    assert not write_once(path, b"the second")
    assert [path.name for path in tmp_path.iterdir()] == ["order-1.json"]
    assert path.read_bytes() == b"the first"


def test_writers_of_one_file_at_once_leave_one_that_is_whole(tmp_path: Path) -> None:
    bodies = [bytes([letter]) * 100_000 for letter in b"abcdefgh"] * 25
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda body: write_once(tmp_path / "file", body), bodies))
    assert written.count(True) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == bodies[written.index(True)]


# The warehouse


def rows(opened: Path) -> list[tuple[str, str, int]]:
    with sqlite3.connect(opened) as connection:
        return list(connection.execute("SELECT order_id, article, quantity FROM booking ORDER BY order_id, line"))


def test_an_order_is_booked_once_line_by_line(tmp_path: Path) -> None:
    order = of(("mug", 2), ("mug", 2), ("book", 1))
    with warehouse.opened(tmp_path / "stock.sqlite") as stock:
        stock.book([order, order])
        stock.book([order])
        assert stock.booked() == {"order-1"}
    assert rows(tmp_path / "stock.sqlite") == [("order-1", "mug", 2), ("order-1", "mug", 2), ("order-1", "book", 1)]


def test_processes_that_book_at_once_wait_for_each_other(tmp_path: Path) -> None:
    def book(part: int) -> None:
        with warehouse.opened(tmp_path / "stock.sqlite") as stock:
            for number in range(20):
                stock.book([replace(GOOD, id=f"order-{part}-{number}")])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(book, range(4)))
    assert len(rows(tmp_path / "stock.sqlite")) == 80


# Labels


def bars_in(png: bytes) -> str:
    """Read a label back, after the specification of PNG: its one row, a character for each dot, black as 1."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (size,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        content = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + content),)
        chunks[kind], at = content, at + 12 + size
    width, height, depth, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (1, [0, 0, 0, 0])
    raw = zlib.decompress(chunks[b"IDAT"])
    row = raw[: len(raw) // height]
    assert (raw, row[0]) == (row * height, 0)
    dots = "".join(f"{octet:08b}" for octet in row[1:])[:width]
    return dots.translate(str.maketrans("01", "10"))


def digits_in(bars: str) -> str:
    """Read an Interleaved 2 of 5 barcode as a scanner does: by which bars and spaces are the wide ones."""
    runs = [len(run) for run in bars.strip("0").replace("01", "0 1").replace("10", "1 0").split()]
    wide = "".join("W" if run > 2 * min(runs) else "N" for run in runs)
    assert (wide[:4], wide[-3:]) == ("NNNN", "WNN")
    digit_of = {"NNWWN": 0, "WNNNW": 1, "NWNNW": 2, "WWNNN": 3, "NNWNW": 4}
    digit_of |= {"WNWNN": 5, "NWWNN": 6, "NNNWW": 7, "WNNWN": 8, "NWNWN": 9}
    pairs = [wide[at : at + 10] for at in range(4, len(wide) - 3, 10)]
    return "".join(f"{digit_of[pair[::2]]}{digit_of[pair[1::2]]}" for pair in pairs)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", fullmatch=True))
def test_a_label_can_be_scanned(order_id: str) -> None:
    assert digits_in(bars_in(labels.draw(order_id))) == labels.parcel_number(order_id)


def test_a_parcel_number_ends_with_its_check_digit() -> None:
    assert labels.check_digit("1540014128876") == 3  # the sample of https://en.wikipedia.org/wiki/ITF-14
    number = labels.parcel_number("order-1")
    assert len(number) == 14
    assert int(number[-1]) == labels.check_digit(number[:-1])


# The handlers


async def test_an_order_is_priced_and_sent_on_to_be_paid_and_booked() -> None:
    published = Published()
    await shop.take_order(GOOD, context(published=published))
    assert published.messages == [("payments", "order-1", price(GOOD)), ("stock", "order-1", GOOD)]


async def test_a_bad_order_is_refused_and_goes_nowhere() -> None:
    published = Published()
    with pytest.raises(Reject) as refused:
        await shop.take_order(of(("mug", -1)), context(published=published))
    assert "not -1" in refused.value.reason
    assert published.messages == []


async def test_a_paid_order_gets_its_invoice_and_its_label() -> None:
    published = Published()
    await shop.charge(an_invoice(), context(published=published))
    assert [queue for queue, _, _ in published.messages] == ["invoices", "labels"]


async def test_a_busy_bank_is_asked_again_when_it_said() -> None:
    published = Published()
    (order_id,) = [one for one in map("order-{}".format, range(200)) if await is_busy_now(one)][:1]
    with pytest.raises(Retry) as again:
        await shop.charge(an_invoice(order_id), context(published=published))
    assert again.value.after_s == 0.4
    assert published.messages == []


async def is_busy_now(order_id: str) -> bool:
    return not bank.is_unreachable_for(order_id) and await is_busy(order_id)


async def test_an_unreachable_bank_is_an_ordinary_failure() -> None:
    with pytest.raises(bank.Unreachable):
        await shop.charge(an_invoice(id_where(bank.is_unreachable_for)), context())


def an_invoice(order_id: str = "order-1") -> Invoice:
    return price(replace(GOOD, id=order_id))


def test_an_invoice_is_written_as_json(opened: Shop) -> None:
    shop.write_invoice(an_invoice(), context(opened))
    assert orjson.loads((opened.invoices / "order-1.json").read_bytes()) == {
        "order_id": "order-1",
        "customer": "customer-7",
        "lines": [{"text": "Mug, stoneware", "quantity": 2, "net_cents": 2_598}],
        "net_cents": 2_598,
        "vat_cents": 494,
        "total_cents": 3_092,
    }


def test_an_invoice_that_comes_again_is_noted(opened: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        shop.write_invoice(an_invoice(), context(opened))
    assert caplog.text.count("order-1 came again") == 2


def test_orders_that_need_a_truck_are_not_booked_and_the_others_are(opened: Shop) -> None:
    small, large = replace(GOOD, id="small"), replace(of(("mug", 501)), id="large")
    verdicts = shop.book([small, large, GOOD], context(opened))
    assert [type(verdict) for verdict in verdicts] == [type(None), Reject, type(None)]
    assert opened.warehouse.booked() == {"small", "order-1"}


def test_a_label_is_drawn_once(opened: Shop) -> None:
    for _ in range(2):
        shop.print_label(an_invoice(), context(opened))
    assert [path.name for path in opened.labels.iterdir()] == ["order-1.png"]


async def test_the_lifespan_opens_what_the_handlers_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path / "made" / "on demand"))
    async with asynccontextmanager(shop.open_shop)() as opened:
        shop.write_invoice(an_invoice(), context(opened))
        assert shop.book([GOOD], context(opened)) == [None]
    assert sorted(os.listdir(tmp_path / "made" / "on demand")) == ["invoices", "labels", "stock.sqlite"]  # noqa: PTH208


def test_the_shop_has_a_handler_of_each_kind() -> None:
    handlers = {handler.queue.name: handler for handler in compile_handlers(shop.handlers)}
    assert {queue: handler.kind for queue, handler in handlers.items()} == {
        "orders": HandlerKind.ASYNC,
        "payments": HandlerKind.ASYNC,
        "stock": HandlerKind.THREAD,
        "invoices": HandlerKind.THREAD,
        "labels": HandlerKind.PROCESS,
    }
    assert handlers["stock"].batch is not None
    assert handlers["payments"].max_attempts == 4
