"""Messages that kill other clients, between good ones: all end as they should, on one connection, and none costs time.

The worker's own service runs here in the test's process, on a loop that measures the CPU time of each of its turns.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mxworker import Context, Delivery, Handlers, Queue
from mxworker.api.handlers import compile_handlers
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.worker.assembly import assemble
from tests.broker.workers import running
from tests.harness.bombs import gzip_bomb, zstd_bomb
from tests.harness.counts import counted
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.raw import HOSTILE, NANOSECONDS, NOT_UTF_8, raw_properties

WORST_TURN_S = 0.3  # a busy machine makes the same work cost more CPU time
GOOD_BETWEEN = 15
NO_CODEC = "content_type not UTF-8"
"""The hostile kind that cannot be handled by who takes JSON: it says that it is something else."""


class MeasuredLoop(asyncio.SelectorEventLoop):
    """An event loop that knows the CPU time of its most expensive turn. Time in `select` costs none."""

    def __init__(self) -> None:
        super().__init__()
        self.worst_turn_s = 0.0

    def _run_once(self) -> None:
        begin = time.thread_time()
        super()._run_once()  # type: ignore[misc]  # one turn of every loop of asyncio's
        self.worst_turn_s = max(self.worst_turn_s, time.thread_time() - begin)


@pytest.fixture
def loop() -> Iterator[MeasuredLoop]:
    with asyncio.Runner(loop_factory=MeasuredLoop) as runner:
        measured = runner.get_loop()
        assert isinstance(measured, MeasuredLoop)
        gc.freeze()  # as a worker does: what the test run has piled up is not ours to collect
        yield measured


class Handled:
    """What handlers were given."""

    def __init__(self) -> None:
        self.bodies: Counter[str] = Counter()
        self.last_of: dict[str, Delivery] = {}

    def as_json(self, queue: Queue) -> Handlers:
        """Return handlers that take JSON, as most do."""
        handlers = Handlers()

        @handlers.consume(queue, concurrency=64)
        async def take(payload: dict, ctx: Context) -> None:  # type: ignore[type-arg]
            ctx.log.debug("taken")
            self.bodies[payload["id"]] += 1

        return handlers

    def as_deliveries(self, queue: Queue) -> Handlers:
        """Return handlers that take everything raw, and look at all of it."""
        handlers = Handlers()

        @handlers.consume(queue, concurrency=64)
        async def take(delivery: Delivery) -> None:
            repr((delivery, delivery.properties.timestamp, delivery.exchange))
            message_id = json.loads(delivery.body)["id"]
            self.last_of[message_id.rpartition(" ")[0]] = delivery
            self.bodies[message_id] += 1

        return handlers


def publish(client: Client, queue: str, hostile_each: int, rng: random.Random) -> set[str]:
    """Publish hostile messages of every kind in random order, good ones between them; return all ids."""
    kinds = [kind for kind in HOSTILE for _ in range(hostile_each)]
    rng.shuffle(kinds)
    ids = set()
    for number, kind in enumerate(kinds):
        hostile_id = f"{kind} {number}"
        client.publish_raw(queue, json.dumps({"id": hostile_id}).encode(), HOSTILE[kind])
        good_ids = [f"good {number}.{position}" for position in range(GOOD_BETWEEN)]
        client.publish(queue, (json.dumps({"id": id_}).encode() for id_ in good_ids))
        ids |= {hostile_id, *good_ids}
    return ids


async def serve(url: str, handlers: Handlers, done: Callable[[Board], bool]) -> Board:
    """Run the service until `done`, drain it, and return its board."""
    board = Board(1)
    service = assemble(
        Consumption("hostile", Brokers.parse([url])),
        compile_handlers(handlers),
        board.slot(1),
        must_start=lambda: False,
        show=lambda state: None,
    )
    running = asyncio.create_task(service.run())
    await until(lambda: done(board) or running.done(), 120, "all messages to be handled")
    service.request_stop()
    assert await running is ExitCode.OK
    return board


@pytest.mark.parametrize("form", ["as_json", "as_deliveries"])
def test_hostile_messages_between_good_ones(
    form: str,
    loop: MeasuredLoop,
    broker_url: str,
    admin: Client,
    queue_name: str,
    rng: random.Random,
    scale: Callable[[int, int], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = Queue(queue_name)
    admin.declare_quorum(f"{queue_name}.dlq")
    admin.declare(queue_name, arguments=queue.declared_arguments())
    ids = publish(admin, queue_name, scale(20, 200), rng)
    refused = {id_ for id_ in ids if form == "as_json" and id_.startswith(NO_CODEC)}
    handled = Handled()
    caplog.set_level(logging.DEBUG, "mxworker")
    board = loop.run_until_complete(
        serve(
            broker_url,
            getattr(handled, form)(queue),
            lambda board: (
                handled.bodies.keys() >= ids - refused and counted(board.slot(1), Outcome.DECODE_ERROR) >= len(refused)
            ),
        )
    )
    assert handled.bodies == Counter(dict.fromkeys(ids - refused, 1)), "each was handled exactly once"
    assert counted(board.slot(1), Outcome.ACK) == len(ids - refused)
    assert counted(board.slot(1), Outcome.STALE) == 0
    assert admin.counts(queue_name).messages == 0
    assert {json.loads(message.body)["id"] for message in admin.drain(f"{queue_name}.dlq")} == refused
    connected = [record for record in caplog.records if record.getMessage().startswith("connected to")]
    assert len(connected) == 2, "one to consume and one to publish, and neither was ever lost"
    assert loop.worst_turn_s < WORST_TURN_S, f"one turn of the loop took {loop.worst_turn_s * 1000:.0f} ms of CPU"
    print(f"worst turn: {loop.worst_turn_s * 1000:.1f} ms of CPU")


def test_delivery_shows_what_was_sent(
    loop: MeasuredLoop, broker_url: str, admin: Client, queue_name: str, rng: random.Random
) -> None:
    queue = Queue(queue_name, type="classic", dead_letter=False)
    admin.declare(queue_name, arguments=queue.declared_arguments())
    ids = publish(admin, queue_name, 1, rng)
    handled = Handled()
    loop.run_until_complete(serve(broker_url, handled.as_deliveries(queue), lambda _: handled.bodies.keys() >= ids))
    by_kind = handled.last_of
    assert by_kind.keys() >= HOSTILE.keys()
    for kind, raw in HOSTILE.items():
        assert by_kind[kind].raw_properties == raw
    assert by_kind["timestamp in nanoseconds"].properties.timestamp == NANOSECONDS
    message_id = by_kind["message_id not UTF-8"].message_id
    assert message_id is not None
    assert message_id.encode("utf-8", "surrogateescape") == NOT_UTF_8


BOMBS_MEMORY_BYTES = 80_000_000


def compressed_bodies() -> list[tuple[bytes, bytes]]:
    """Return encodings and bodies that no handler of JSON can be given."""
    whole = gzip.compress(json.dumps({"id": "x" * 50_000}).encode())
    return [
        (b"gzip", gzip_bomb()),
        (b"zstd", zstd_bomb()),
        (b"gzip", gzip.compress(whole)),
        (b"gzip", whole[:-1]),
        (b"gzip", whole + b"more"),
        (b"gzip, gzip", gzip.compress(whole)),
        (b"br", whole),
    ]


class PeakMemory:
    """The most memory that this process had resident since it began to be measured, above what it had then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets the peak
        self._before = self._peak_bytes()

    @staticmethod
    def _peak_bytes() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    @property
    def delta_bytes(self) -> int:
        return self._peak_bytes() - self._before


def test_compressed_bombs_end_in_the_dead_letter_queue(
    loop: MeasuredLoop, broker_url: str, admin: Client, queue_name: str
) -> None:
    queue = Queue(queue_name)
    handled = Handled()
    bodies = compressed_bodies()
    good_ids = [f"good {number}" for number in range(len(bodies))]

    async def consume_all() -> None:
        async with running(broker_url, handled.as_json(queue)) as worker:
            for (encoding, body), id_ in zip(bodies, good_ids, strict=True):
                admin.publish_raw(queue_name, body, raw_properties(delivery_mode=2, content_encoding=encoding))
                good = gzip.compress(json.dumps({"id": id_}).encode())
                admin.publish_raw(queue_name, good, raw_properties(delivery_mode=2, content_encoding=b"gzip"))
            await until(lambda: worker.count(Outcome.ACK) + worker.count(Outcome.DECODE_ERROR) == 2 * len(bodies), 30)

    memory = PeakMemory()
    loop.run_until_complete(consume_all())
    assert memory.delta_bytes < BOMBS_MEMORY_BYTES
    assert handled.bodies == Counter(dict.fromkeys(good_ids, 1)), "the good ones were handled, once"
    assert loop.worst_turn_s < WORST_TURN_S, f"one turn of the loop took {loop.worst_turn_s * 1000:.0f} ms of CPU"
    assert admin.counts(queue_name).messages == 0
    dead = [message.body for message in admin.drain(f"{queue_name}.dlq")]
    assert sorted(dead) == sorted(body for _, body in bodies)
    print(f"memory: {memory.delta_bytes / 1e6:.0f} MB; worst turn: {loop.worst_turn_s * 1000:.1f} ms of CPU")
