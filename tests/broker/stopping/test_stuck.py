"""Handlers that do not stop: the drain keeps its time, their messages come back, and never while they are at work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

import pytest

from mxworker import Context, Handlers
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import ExitCode
from mxworker.worker.handling.running import GRACE_S
from tests.broker.apps import Recorded
from tests.broker.workers import running
from tests.harness import ledger
from tests.harness.service import Service
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client

TIMEOUT_S = 0.5
SOON_S = 60.0

# A message named "stuck" is stuck for a minute, but not when it is redelivered. All that time its handler writes that
# it is still at work. The end of its process takes a moment: time enough to begin with what came back too early.
BEATING = """
    import asyncio
    import os
    import time

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger
    from tests.harness.retries import FAST

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    queue = Queue(os.environ["QUEUE"])
    concurrency = int(os.environ["CONCURRENCY"])


    @handlers.lifespan
    async def unhurried():
        yield
        await asyncio.sleep(0.3)


    def is_stuck(ctx: Context) -> bool:
        return b"stuck" in ctx.delivery.body and not ctx.delivery.redelivered


    def beats(message_id: str):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ledger.start(f"{message_id} at work")
            yield
"""
IN_A_THREAD = f"""{BEATING}

    @handlers.consume(queue, concurrency=concurrency, timeout={TIMEOUT_S}, retry=FAST)
    def work(message_id: str, ctx: Context) -> None:
        ledger.start(message_id)
        if is_stuck(ctx):
            for _ in beats(message_id):
                time.sleep(0.002)
        time.sleep(0.005)
        ledger.finish(message_id)
"""
ON_THE_LOOP = f"""{BEATING}

    @handlers.consume(queue, concurrency=concurrency, timeout={TIMEOUT_S}, retry=FAST)
    async def work(message_id: str, ctx: Context) -> None:
        ledger.start(message_id)
        if is_stuck(ctx):
            for _ in beats(message_id):
                try:
                    await asyncio.sleep(0.002)
                except asyncio.CancelledError:
                    continue
        await asyncio.sleep(0.005)
        ledger.finish(message_id)
"""


class Stuck(Recorded):
    """A queue of messages of which some are stuck, and the ledger of what handlers did with them."""

    def publish_named(self, *names: str) -> None:
        with Client(self._url) as client:
            client.publish(self.queue, [name.encode() for name in names])
        self.ids += names

    @contextmanager
    def served(self, source: str, *flags: str, concurrency: int = 4) -> Iterator[Service]:
        with self.service(*flags, source=source, concurrency=concurrency) as service:
            service.wait_ready()
            yield service

    def is_at_work(self, name: str) -> bool:
        return any(record.id == f"{name} at work" for record in ledger.read(self.path))

    def assert_no_overlap(self, name: str) -> None:
        """Check that nobody began with a message while another process was at work on it."""
        records = [record for record in ledger.read(self.path) if record.id in (name, f"{name} at work")]
        starts = [record for record in records if record.id == name and record.event is ledger.START]
        assert len(starts) == 2
        first, second = starts
        beats = [record.at_ns for record in records if record.id != name and record.pid == first.pid]
        assert len(beats) > 10
        assert max(beats) < second.at_ns, f"{(max(beats) - second.at_ns) / 1e6:.1f} ms at the same time"


@pytest.fixture
def stuck(broker_url: str, queue_name: str, tmp_path: Path) -> Stuck:
    made = Stuck(broker_url, tmp_path, queue_name)
    made.declare()
    return made


@pytest.mark.parametrize("source", [IN_A_THREAD, ON_THE_LOOP], ids=["def", "async def"])
def test_drain_with_a_stuck_handler_keeps_its_time_and_another_service_takes_over_afterwards(
    source: str, stuck: Stuck
) -> None:
    with stuck.served(source, "--workers=1", "--drain-timeout=1s") as leaving:
        stuck.publish_named("stuck")
        wait_until(lambda: stuck.is_at_work("stuck"), SOON_S, "it to be stuck")
        with stuck.served(source, "--workers=1"):
            asked_at = time.monotonic()
            leaving.signal(SIGTERM)
            assert leaving.wait_exit() == ExitCode.DRAIN_TIMEOUT
            assert time.monotonic() - asked_at < 1 + 14  # far from the 30 s that a drain may take by default
            assert not leaving.survivors()
            wait_until(lambda: stuck.finished_ids == {"stuck"}, SOON_S, "the other service to handle it")
    stuck.assert_no_overlap("stuck")


def test_process_with_too_many_stuck_handlers_is_replaced_and_all_is_handled(stuck: Stuck) -> None:
    with stuck.served(IN_A_THREAD, "--workers=2", "--drain-timeout=90s", concurrency=2) as service:
        before = service.worker_pids()
        stuck.publish_named("stuck", *(f"quick {number}" for number in range(300)))
        service.wait_for_log("1 of 2 places of handler work are stuck", 10 + GRACE_S)
        lost_at = time.monotonic()
        wait_until(lambda: set(before) - set(service.worker_pids()), 50, "the end of the process")
        service.wait_workers(2)
        assert time.monotonic() - lost_at < 50, "it waited neither for the drain timeout of 90 s nor for the handler"
        wait_until(lambda: stuck.finished_ids == set(stuck.ids), SOON_S, "all")
        service.stop()
        assert service.exit_code == 0
    stuck.assert_no_overlap("stuck")
    report = ledger.check(stuck.ids, [record for record in ledger.read(stuck.path) if record.id in stuck.ids])
    print(report)
    assert report.nothing_lost, report
    assert not report.overlapping, report
    assert not report.refinished, report


async def test_message_of_a_stuck_thread_comes_back_with_the_end_of_its_process_and_not_before(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    began, let_go = threading.Event(), threading.Event()

    @handlers.consume(queue_name)
    def hold(body: bytes) -> None:
        began.set()
        let_go.wait(60)

    async with running(broker_url, handlers, ExitCode.DRAIN_TIMEOUT, drain_timeout_s=0.2) as worker:
        admin.publish(queue_name, [b""])
        await until(began.is_set, SOON_S, "it to run")
    assert worker.service.has_running_handlers
    await asyncio.sleep(0.2)  # for what must not happen
    assert admin.counts(queue_name).messages == 0
    await worker.service.parts.pool.close()  # as the end of the process does
    await until(lambda: admin.counts(queue_name).messages == 1, SOON_S, "it to be back")
    let_go.set()
    await worker.service.runners[0].finished()


async def test_thread_handlers_publish_and_are_acked_after_that(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    output = f"{queue_name}.out"

    @handlers.consume(queue_name, concurrency=8)
    def relay(body: str, ctx: Context) -> None:
        ctx.publisher.publish_sync(body, routing_key=output)

    admin.declare(output)
    try:
        async with running(broker_url, handlers) as worker:
            admin.publish(queue_name, [str(number).encode() for number in range(200)])
            await until(lambda: worker.count(Outcome.ACK) == 200, SOON_S, "all")
        assert sorted(int(message.body) for message in admin.drain(output)) == list(range(200))
    finally:
        admin.delete(output)
