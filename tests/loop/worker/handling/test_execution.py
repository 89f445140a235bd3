"""A body reaches its handler as it was before it was compressed; what does not decompress costs nobody anything."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
import zlib
from contextlib import nullcontext
from typing import Annotated, Any

import pytest

from mxworker import Ack, Context, Delivery, Handlers, Reject
from mxworker.api.context import HandlerScope
from mxworker.api.handlers import compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.worker.handling.batch_execution import Undecodable, batch_pipeline
from mxworker.worker.handling.execution import Execute, pipeline
from mxworker.worker.handling.report import Report
from tests.harness.bombs import gzip_bomb
from tests.harness.nowhere import Nowhere
from tests.rabbit.raw import raw_properties

SMALL = b'{"n": 1}'
LARGE = b'{"n": "%s"}' % random.Random(1).randbytes(20_000).hex().encode()


def never(rest: list[Delivery]) -> None:
    raise AssertionError("there was room for all")


def encoded(body: bytes, encoding: bytes | None = b"gzip") -> Delivery:
    raw = raw_properties() if encoding is None else raw_properties(content_encoding=encoding)
    return Delivery(body, raw, b"\0\0", False, 1, Nowhere())


def handling(annotation: object, taken: list[Any]) -> Execute:
    """Return the pipeline of a handler that notes its payload."""
    handlers = Handlers()

    async def take(payload: Any, ctx: Context) -> None:
        taken.append(payload)

    take.__annotations__["payload"] = annotation
    handlers.consume("queue")(take)
    (handler,) = compile_handlers(handlers)
    return pipeline(handler, Report(handler), HandlerScope("queue", "take"))


async def settlement_of(delivery: Delivery, annotation: object = dict) -> tuple[Settlement, list[Any]]:
    taken: list[Any] = []
    return await handling(annotation, taken)(delivery), taken


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_compressed_body_is_decompressed_before_it_is_decoded(body: bytes) -> None:
    compressed = gzip.compress(body)
    for annotation, payload in ((bytes, body), (str, body.decode())):
        settlement, taken = await settlement_of(encoded(compressed), annotation)
        assert isinstance(settlement, Ack)
        assert taken == [payload]
    assert (await settlement_of(encoded(compressed)))[1][0].keys() == {"n"}


async def test_handler_of_deliveries_gets_the_body_as_published_whatever_it_is() -> None:
    for body in (gzip.compress(SMALL), gzip.compress(LARGE)[:-1]):
        _, (taken,) = await settlement_of(encoded(body), Delivery)
        assert taken.body == body


@pytest.mark.parametrize("encoding", [b"br", b"gzip, gzip", b"compress", b"snappy", b"\xff"])
@pytest.mark.parametrize("body", [SMALL, LARGE, b"\x00" * 10], ids=["small", "large", "binary"])
async def test_handler_of_bytes_gets_what_nobody_can_undo_as_it_was_sent(body: bytes, encoding: bytes) -> None:
    shown: list[str | None] = []
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(payload: Annotated[bytes, "a note"], ctx: Context) -> None:
        shown.append(ctx.delivery.properties.content_encoding)
        assert payload == body

    (handler,) = compile_handlers(handlers)
    settlement = await pipeline(handler, Report(handler), HandlerScope("queue", "take"))(encoded(body, encoding))
    assert isinstance(settlement, Ack)
    assert shown == [encoding.decode("utf-8", "surrogateescape")]


async def test_batch_of_bytes_gets_what_nobody_can_undo_beside_what_was_undone() -> None:
    taken: list[bytes] = []
    handlers = Handlers()

    @handlers.consume_batch("queue", size=3)
    async def take(payloads: list[bytes]) -> None:
        taken.extend(payloads)

    (handler,) = compile_handlers(handlers)
    execute = batch_pipeline(handler, Report(handler), HandlerScope("queue", "take"))
    batch = [encoded(SMALL, b"br"), encoded(gzip.compress(SMALL), b"x-gzip"), encoded(gzip.compress(LARGE)[:-9])]
    undecodable: Undecodable = {}
    settlements = await execute(batch, undecodable, nullcontext, never)
    assert taken == [SMALL, SMALL]
    assert [type(settlement) for settlement in settlements] == [Ack, Ack, Reject]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(gzip.compress(LARGE)[:-9], b"gzip"), (SMALL, b"gzip"), (SMALL, b"deflate"), (gzip_bomb(), b"x-gzip, identity")],
    ids=["cut-short", "not-gzip", "not-deflate", "bomb"],
)
async def test_handler_of_bytes_is_not_given_a_body_that_is_broken(body: bytes, encoding: bytes) -> None:
    settlement, taken = await settlement_of(encoded(body, encoding), bytes)
    assert isinstance(settlement, Reject)
    assert not taken


@pytest.mark.parametrize("encoding", [None, b"utf-8", b"identity", b"binary", b""])
async def test_body_that_is_not_compressed_is_taken_as_it_is(encoding: bytes | None) -> None:
    assert (await settlement_of(encoded(LARGE, encoding), bytes))[1] == [LARGE]


async def test_plain_delivery_has_no_properties_made() -> None:
    delivery = encoded(SMALL, None)
    await settlement_of(delivery)
    assert delivery._decoded is None


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (gzip.compress(gzip.compress(SMALL)), b"gzip", "the body is not JSON"),
        (gzip.compress(LARGE)[:-9], b"gzip", "the body is gzip, cut short"),
        (SMALL, b"gzip", "the body is not gzip"),
        (gzip.compress(SMALL), b"gzip, gzip", "the content-encoding is 'gzip, gzip'"),
        (gzip.compress(SMALL), b"br", "the content-encoding is 'br', which is none of gzip"),
        (gzip.compress(SMALL), b"\xff", r"the content-encoding is '\udcff'"),
        (zlib.compress(bytes(2**21), 9, 31), b"gzip", "the body decompresses to more than 1048576 bytes"),
    ],
    ids=[
        "not-json",
        "cut-short",
        "not-gzip",
        "two-encodings",
        "brotli",
        "hostile-encoding",
        "bomb",
    ],  # gzip writes the time
)
async def test_body_that_does_not_decompress_is_rejected(body: bytes, encoding: bytes, why: str) -> None:
    settlement, taken = await settlement_of(encoded(body, encoding))
    assert isinstance(settlement, Reject)
    assert why in (settlement.reason or "")
    assert not taken


async def test_bomb_leaves_the_loop_to_others() -> None:
    bomb = gzip_bomb()
    times_s = []
    for _ in range(3):  # a collection of garbage of the whole process may fall into one of them
        begin = time.thread_time()
        settlement, taken = await settlement_of(encoded(bomb))
        times_s.append(time.thread_time() - begin)
        assert isinstance(settlement, Reject)
        assert not taken
    assert min(times_s) < 0.02, "the loop's thread did not decompress it"


@pytest.mark.alone
async def test_handler_out_of_time_is_not_held_up_by_its_body() -> None:
    body = gzip.compress(random.Random(1).randbytes(30_000_000).hex().encode(), 1)
    begin = time.monotonic()
    gzip.decompress(body)
    decompressing_s = time.monotonic() - begin
    taken: list[Any] = []
    execution = asyncio.ensure_future(handling(bytes, taken)(encoded(body)))
    await asyncio.sleep(0)
    begin = time.monotonic()
    execution.cancel()
    with pytest.raises(asyncio.CancelledError):
        await execution
    assert time.monotonic() - begin < decompressing_s / 2
    assert not taken
