"""publish_sync, from a thread: it works, it never blocks the event loop, and it always comes back."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mxworker import Context, Handlers, Publisher
from mxworker.api.receipts import Confirmed
from mxworker.board.metrics_layout import Outcome
from mxworker.config.publisher import PublisherSettings
from mxworker.errors import EncodeError, ExitCode, PublishOverflow, PublishUnconfirmed, Unroutable
from tests.broker.workers import running
from tests.harness.faults import TO_CLIENT
from tests.harness.frames import BASIC_ACK
from tests.harness.proxy import proxy_to
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client

SOON_S = 60.0


async def test_thread_of_a_handler_publishes(broker_url: str, queue_name: str, output: str, admin: Client) -> None:
    handlers = Handlers()
    outcomes: list[object] = []

    @handlers.consume(queue_name)
    async def relay(body: str, ctx: Context) -> None:
        outcomes.append(await asyncio.to_thread(ctx.publisher.publish_sync, body, routing_key=output))

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [str(number).encode() for number in range(100)])
        await until(lambda: worker.count(Outcome.ACK) == 100, SOON_S, "all")
    assert {type(outcome) for outcome in outcomes} == {Confirmed}
    assert sorted(int(message.body) for message in admin.drain(output)) == list(range(100))


async def test_errors_reach_the_thread(broker_url: str, queue_name: str) -> None:
    async with Publisher.connect(broker_url) as publisher:
        with pytest.raises(Unroutable):
            await asyncio.to_thread(publisher.publish_sync, b"", routing_key=f"{queue_name}.missing")
        with pytest.raises(EncodeError):
            await asyncio.to_thread(publisher.publish_sync, object(), routing_key=queue_name, timeout_s=math.inf)


async def test_call_on_the_loop_is_refused(broker_url: str, queue_name: str) -> None:
    async with Publisher.connect(broker_url) as publisher:
        with pytest.raises(RuntimeError, match="use: await publish"):
            publisher.publish_sync(b"", routing_key=queue_name)
        assert publisher.stats.tasks_queued == 0


@pytest.mark.parametrize("is_cut", [False, True], ids=["deadline", "cut"])
async def test_thread_comes_back_when_its_worker_leaves(
    is_cut: bool, broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    outcomes: list[object] = []

    def publish(publisher: Publisher) -> None:
        try:
            publisher.publish_sync(b"", routing_key=output)
        except BaseException as error:
            outcomes.append(error)

    @handlers.consume(queue_name)
    async def relay(body: bytes, ctx: Context) -> None:
        await asyncio.to_thread(publish, ctx.publisher)

    settings = PublisherSettings(timeout_s=600)
    async with proxy_to(broker_url) as proxy:
        url = proxy.url(broker_url)
        async with running(url, handlers, ExitCode.DRAIN_TIMEOUT, drain_timeout_s=0.3, publisher=settings) as worker:
            swallowed = proxy.drop(TO_CLIENT, BASIC_ACK)
            admin.publish(queue_name, [b""] * 3)
            await until(lambda: swallowed.hits, SOON_S, "a confirm")
            await until(lambda: worker.service.parts.publisher.stats.in_flight == 3, SOON_S, "all to be on their way")
            if is_cut:
                worker.service.request_cut()
        await until(lambda: len(outcomes) == 3, SOON_S, "all threads")
    assert {type(outcome) for outcome in outcomes} == {PublishUnconfirmed}
    await until(lambda: admin.counts(queue_name).messages == 3, SOON_S, "all messages to be back")


async def test_thread_that_comes_too_late_is_refused(broker_url: str, queue_name: str) -> None:
    async with Publisher.connect(broker_url) as publisher:
        pass
    with pytest.raises(PublishOverflow, match="closed"):
        await asyncio.to_thread(publisher.publish_sync, b"", routing_key=queue_name)


def test_thread_that_outlives_its_event_loop_is_refused(broker_url: str, queue_name: str) -> None:
    async def connect() -> Publisher:
        async with Publisher.connect(broker_url) as publisher:
            return publisher

    publisher = asyncio.run(connect())
    with pytest.raises(PublishOverflow, match="closed"):
        publisher.publish_sync(b"", routing_key=queue_name)


def test_thread_does_not_wait_for_a_loop_that_never_turns_again(broker_url: str, queue_name: str) -> None:
    """Stopped before the publisher was closed: as near as a thread can come to the end of its process."""
    loop = asyncio.new_event_loop()
    connecting = Publisher.connect(broker_url, timeout_s=0.2)
    publisher = loop.run_until_complete(connecting.__aenter__())
    started_at = time.monotonic()
    with pytest.raises(PublishUnconfirmed):
        publisher.publish_sync(b"", routing_key=queue_name)
    assert time.monotonic() - started_at < 30
    loop.run_until_complete(connecting.__aexit__(None, None, None))
    loop.close()


APP = """
    import asyncio
    import os

    from mxworker import Context, Handlers
    from mxworker.errors import PublishError

    handlers = Handlers()


    def publish(publisher):
        print("publishing", flush=True)
        try:
            publisher.publish_sync(b"", routing_key=os.environ["QUEUE"] + ".out", timeout_s=600)
        except PublishError as error:
            print("ended in", type(error).__name__, flush=True)


    @handlers.consume(os.environ["QUEUE"])
    async def relay(body: bytes, ctx: Context) -> None:
        await asyncio.to_thread(publish, ctx.publisher)
"""


def test_second_ctrl_c_ends_a_worker_whose_thread_waits_for_a_confirm(
    broker_url: str, queue_name: str, output: str, admin: Client, tmp_path: Path
) -> None:
    app = write_app(tmp_path, APP)
    with proxy_to(broker_url) as proxy:
        env = {"MXWORKER_BROKER_URL": proxy.url(broker_url), "QUEUE": queue_name}
        with Service(mxworker_run(app, "--workers=1", app_dir=tmp_path), tmp_path, env=env) as service:
            service.wait_ready()
            proxy.drop(TO_CLIENT, BASIC_ACK)
            admin.publish(queue_name, [b""])
            wait_until(lambda: "publishing" in service.output_text(), SOON_S, "the publish")
            wait_until(lambda: admin.counts(output).messages, SOON_S, "the message")
            service.signal(signal.SIGINT)
            service.wait_for_log("draining: ")
            service.signal(signal.SIGINT)
            assert service.wait_exit(SOON_S) == ExitCode.FORCED
            assert "ended in PublishUnconfirmed" in service.output_text()


@pytest.mark.parametrize("how", ["publish_sync", "publish"])
async def test_forked_process_is_refused_at_once(how: str, broker_url: str, queue_name: str) -> None:
    """It has no connection, and its parent's event loop does not turn in it."""

    def publish_in_child(publisher: Publisher, end: Connection) -> None:
        try:
            if how == "publish_sync":
                publisher.publish_sync(b"", routing_key=queue_name, timeout_s=600)
            else:
                asyncio.run(publisher.publish(b"", routing_key=queue_name, timeout_s=600))
        except BaseException as error:
            end.send(f"{type(error).__name__}: {error}")

    context = multiprocessing.get_context("fork")
    async with Publisher.connect(broker_url) as publisher:
        here, there = context.Pipe()
        child = context.Process(target=publish_in_child, args=(publisher, there))
        child.start()
        try:
            told = await asyncio.to_thread(lambda: here.poll(SOON_S) and here.recv())
            assert str(told).startswith("RuntimeError: this process was forked")
        finally:
            child.kill()
            child.join()
