"""A fault at each step of a delivery's way: all that was delivered is settled once, and the others are not touched.

The faults of the wire, under the settlements and the copies, are in tests/broker/settling/test_faults.py.
"""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mxworker import Context, Delivery, Handlers, RetryPolicy, errors
from mxworker.amqp.publishing.unawaited import unawaited
from mxworker.api.compilation import Handler
from mxworker.api.context import WorkerResources
from mxworker.api.handlers import compile_handlers
from mxworker.api.middleware import CallNext
from mxworker.api.receipts import Receipt
from tests.harness.bombs import gzip_bomb
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties

GOOD, BAD = b"good", b"bad"
GOOD_COUNT = 6
PLAIN, GZIP = raw_properties(), raw_properties(content_encoding=b"gzip")
LARGE = random.Random(1).randbytes(20_000)
UNSPLITTABLE = raw_properties(headers=b"\x00\x00\x00\x03abc")
AT_LEISURE_S = 30.0
HURRIED_S = 0.5


class Broken(Exception):
    """The fault."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one delivery, and what becomes of it: `way` is how the channel hears of it."""

    way: str
    body: bytes = BAD
    raw: bytes = PLAIN
    handle: Callable[[], Any] = lambda: None
    before: Callable[[], Any] = lambda: None
    after: Callable[[], Any] = lambda: None
    decode: Callable[[], Any] = lambda: None
    copies: list[errors.PublishError | None] = field(default_factory=lambda: [None])
    is_of_all: bool = True
    """Whether it befalls the whole batch that the delivery is in."""
    timeout_s: float = AT_LEISURE_S


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


def cancel_oneself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def publish_in_vain() -> None:
    """Leave a receipt behind that ends in a failure, as `publish_nowait` does."""
    receipts, receipt = unawaited.get(), Receipt("output")
    assert receipts is not None
    receipts.add(receipt)
    receipt.end(errors.PublishNacked("the output's queue is full"))


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


FAULTS = {
    "decompress: no gzip": Fault("acked", raw=GZIP, is_of_all=False),
    "decompress: cut short, in a thread": Fault("acked", gzip.compress(LARGE)[:-9], GZIP, is_of_all=False),
    "decompress: a bomb": Fault("acked", gzip_bomb(), GZIP, is_of_all=False),
    "decompress: an encoding nobody knows": Fault(
        "acked", raw=raw_properties(content_encoding=b"gzip, gzip"), is_of_all=False
    ),
    "decode: refused": Fault("acked", decode=raising(errors.DecodeError("not mine")), is_of_all=False),
    "decode: raises": Fault("acked", decode=raising(Broken()), is_of_all=False),
    "decode: runs out of stack": Fault("acked", decode=raising(RecursionError()), is_of_all=False),
    "middleware: raises before": Fault("acked", before=raising(Broken())),
    "middleware: raises after": Fault("acked", after=raising(Broken())),
    "middleware: cancels itself": Fault("acked", before=cancel_oneself),
    "middleware: out of time": Fault("acked", after=never, timeout_s=HURRIED_S),
    "handler: raises": Fault("acked", handle=raising(Broken())),
    "handler: SystemExit": Fault("acked", handle=raising(SystemExit(3))),
    "handler: cancels itself": Fault("acked", handle=cancel_oneself),
    "handler: out of time": Fault("acked", handle=never, timeout_s=HURRIED_S),
    "handler: its output is refused": Fault("acked", handle=publish_in_vain),
    "publish: nacked": Fault("given_back", handle=raising(Broken()), copies=[errors.PublishNacked("full")]),
    "publish: unconfirmed": Fault("given_back", handle=raising(Broken()), copies=[errors.PublishUnconfirmed("lost")]),
    "publish: overflow": Fault("given_back", handle=raising(Broken()), copies=[errors.PublishOverflow("blocked")]),
    "publish: unroutable": Fault("given_back", handle=raising(Broken()), copies=[errors.Unroutable("no queue")]),
    "publish: too large": Fault("rejected", handle=raising(Broken()), copies=[errors.MessageTooLarge("16 MB")]),
    "publish: cannot be encoded": Fault("rejected", handle=raising(Broken()), copies=[errors.EncodeError("a name")]),
    "publish: refused dead letter": Fault(
        "rejected",
        decode=raising(errors.DecodeError("not mine")),
        copies=[errors.PublishNacked("full")],
        is_of_all=False,
    ),
    "publish: cannot be copied": Fault("rejected", raw=UNSPLITTABLE, handle=raising(Broken())),
}


def handler_with(fault: Fault, is_batch: bool, counts: list[int]) -> Handler:
    """Return a handler with a middleware, in which the bad body meets the fault."""
    handlers = Handlers()

    def is_bad(payload: Any) -> bool:
        return payload != GOOD and (not isinstance(payload, list) or any(body != GOOD for body in payload))

    async def at(point: Callable[[], Any]) -> None:
        waiting = point()
        if waiting is not None:
            await waiting
        await asyncio.sleep(0)  # where a cancellation arrives

    @handlers.middleware
    async def around(payload: Any, ctx: Context, call_next: CallNext) -> Any:
        if is_bad(payload):
            await at(fault.before)
        outcome = await call_next(payload, ctx)
        if is_bad(payload):
            await at(fault.after)
        return outcome

    async def take(payload: Any, ctx: Context) -> None:
        await asyncio.sleep(0)
        if is_bad(payload):
            await at(fault.handle)
        counts.append(len(payload) if is_batch else 1)

    settings: dict[str, Any] = {"timeout": fault.timeout_s, "retry": RetryPolicy(jitter=False)}
    if is_batch:
        take.__annotations__["payload"] = list[bytes]
        handlers.consume_batch("queue", size=GOOD_COUNT + 1, wait=0.01, **settings)(take)
    else:
        take.__annotations__["payload"] = bytes
        handlers.consume("queue", **settings)(take)
    (handler,) = compile_handlers(handlers)

    def decode(delivery: Delivery, body: bytes) -> Any:
        if body == BAD:
            fault.decode()
        return handler.decode(delivery, body)

    return replace(handler, decode=decode)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
async def test_fault_settles_its_delivery_once_and_touches_no_other(name: str, is_batch: bool) -> None:
    fault = FAULTS[name]
    counts: list[int] = []
    publisher: Any = Publishing(*fault.copies)
    nobody: Any = None
    bench = at_work(
        [handler_with(fault, is_batch, counts)], resources=WorkerResources(nobody, publisher, nobody), rng=Hasty()
    )
    channel = Channel()
    bodies = [(GOOD, PLAIN)] * (GOOD_COUNT // 2) + [(fault.body, fault.raw)] + [(GOOD, PLAIN)] * (GOOD_COUNT // 2)
    for tag, (body, raw) in enumerate(bodies, 1):
        bench.runner.admit(Delivery(body, raw, b"\0\0", False, tag, channel))
    await until(lambda: channel.settled >= len(bodies), 10, "all settlements")
    await bench.runner.finished()
    bad_tag = GOOD_COUNT // 2 + 1
    everyone = list(range(1, len(bodies) + 1))
    assert sorted(channel.acked + channel.rejected + channel.requeued + channel.given_back) == everyone
    assert bad_tag in getattr(channel, fault.way)
    assert not channel.requeued, "an immediate requeue"
    assert not bench.broken, "a fault of the application was taken for a bug of ours"
    assert bench.runner.is_idle
    if not (is_batch and fault.is_of_all):
        assert {*everyone} - {bad_tag} <= {*channel.acked}
        assert sum(counts) >= GOOD_COUNT, "each good one was handled"
    published = {queue for _, queue in publisher.published}
    assert published <= {"queue.retry.1000", "queue.dlq"}
    if fault.way == "acked":
        assert published, "acked without a copy: lost"
