"""Deliveries go into the transport, in reads of up to 50 within the prefetch, and acks come out of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench.client.payload import payload
from bench.contenders import Job, Work
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.transport import DataPlane
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.amqp.protocol.frames import BASIC_DELIVER, FRAME_BODY, FRAME_HEADER, FRAME_METHOD
from mxworker.api.handlers import Handlers, compile_handlers
from tests.harness.runners import at_work

BODY_BYTES = 256
READ_MESSAGES = 50
HELD_BYTES = 512 * 1024 * 1024
BODY_CAP_BYTES = 64 * 1024 * 1024
CHANNEL = 1


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, CHANNEL, len(payload)) + payload + b"\xce"


def _around_tag(has_timestamp: bool) -> tuple[bytes, bytes]:
    """Return the bytes before and after the delivery tag in the frames of a delivery."""
    tag = bytes(8)
    body = json.dumps(payload(BODY_BYTES), separators=(",", ":")).encode()
    consumer_tag, exchange, routing_key = b"\x1eamq.ctag-0123456789abcdefghijk", b"\0", b"\x0emxworker-bench"
    method = struct.pack(">I", BASIC_DELIVER) + consumer_tag + tag + b"\0" + exchange + routing_key
    flags, values = (0x1040, b"\2" + struct.pack(">Q", int(time.time()))) if has_timestamp else (0x1000, b"\2")
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + values
    before, after = _frame(FRAME_METHOD, method).split(tag, 1)
    return before, after + _frame(FRAME_HEADER, header) + _frame(FRAME_BODY, body)


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How the handler is set up; batches keep their own concurrency and prefetch."""

    concurrency: int = 1000
    prefetch: int = 1000
    without_metrics: bool = False
    """Whether outcomes alone are counted, and no times, ages and bytes."""
    timestamps: bool = False
    """Whether each message has the time at which it was published."""


class Wire:
    """Stands in for the transport, and counts the bytes written."""

    written_bytes = 0

    def write(self, data: bytes) -> None:
        """Count the bytes of acks."""
        self.written_bytes += len(data)

    def get_extra_info(self, name: str) -> None:
        """Return None, because there is no socket."""


class Deliveries:
    """Feeds deliveries to a handler, one read in each loop turn. `deliveries_to` makes it."""

    def __init__(self, registry: Handlers, bounds: Bounds) -> None:
        loop = asyncio.get_running_loop()
        (handler,) = compile_handlers(registry)
        if handler.batch is None:
            handler = dataclasses.replace(handler, concurrency=bounds.concurrency, prefetch=bounds.prefetch)
        runner = at_work(
            [handler], process_concurrency=bounds.concurrency, has_metrics=not bounds.without_metrics
        ).runner
        self._plane = DataPlane(asyncio.StreamReader(loop=loop), loop, BODY_CAP_BYTES)
        self._plane.connection_made(cast(asyncio.Transport, Wire()))
        self._plane.frames.started = True
        self._subscription = Subscription(
            cast(BrokerConnection, SimpleNamespace(plane=self._plane)),
            cast(Any, None),
            CHANNEL,
            handler.queue,
            runner.admit,
            ByteBudget(HELD_BYTES),
            lambda: None,
            lambda what: None,
        )
        self._plane.register(CHANNEL, self._subscription)
        self._prefetch = handler.prefetch
        self._around_tag = _around_tag(bounds.timestamps)
        self._tag = 0

    async def run(self, messages: int) -> float:
        """Deliver `messages` messages, wait until all are settled, and return the CPU seconds used."""
        subscription = self._subscription
        last = self._tag + messages
        begun = time.thread_time()
        while self._tag < last or subscription.unsettled:
            count = min(READ_MESSAGES, self._prefetch - subscription.unsettled, last - self._tag)
            if count:
                self._plane.data_received(self._read(count))
            await asyncio.sleep(0)
        return time.thread_time() - begun

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _read(self, count: int) -> bytes:
        before, after = self._around_tag
        tags = range(self._tag + 1, self._tag + count + 1)
        self._tag += count
        return b"".join([part for tag in tags for part in (before, tag.to_bytes(8, "big"), after)])


def deliveries_to(registry: str, bounds: Bounds) -> Deliveries:
    """Return what delivers to the handler of a registry of `bench.ours.consume_app`."""
    os.environ |= Job(Work.CONSUME, sys.maxsize, queue="bench").environment(Path(os.devnull))
    from bench.ours import consume_app  # it reads these variables at its import

    return Deliveries(getattr(consume_app, registry), bounds)
