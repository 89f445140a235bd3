"""What an application counts with prometheus_client is in the scrape, exact over kills, crashes and reloads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.broker.apps import Recorded
from tests.harness import ledger
from tests.harness.http import Web
from tests.harness.service import Service
from tests.harness.waiting import wait_until

ASYNC = """
    import asyncio
    import os
    import random

    from prometheus_client import Counter, Gauge, Histogram
    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    finished = Counter("shop_finished", "Finished messages.", ["kind"])
    size = Histogram("shop_size", "Sizes.", buckets=[1, 100])
    generation = Gauge("shop_generation", "Generation of the code.")
    generation.set(1)
    forged = Counter("mxworker_messages", "A name of ours.")
    forged.inc(1000)


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"), concurrency=8)
    async def record(message_id: str) -> None:
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, 0.01))
        ledger.finish(message_id)
        finished.labels("all").inc()  # nothing can come between the two but a kill
        size.observe(len(message_id))
"""
CPU = """
    import os
    import time

    from prometheus_client import Counter
    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger
    from tests.harness.retries import FAST

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    started = Counter("shop_started", "Started messages.")


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"), cpu=True, concurrency=3, retry=FAST)
    def record(message_id: str, ctx: Context) -> None:
        ledger.start(message_id)
        started.inc()
        time.sleep(0.05)  # so that several run at once
        if ctx.attempt == 1 and message_id.endswith(("-3", "-6", "-9")):
            os._exit(1)
        ledger.finish(message_id)
"""
FORKING = """
    import os

    from prometheus_client import Counter
    from mxworker import Handlers, Queue

    handlers = Handlers()
    finished = Counter("shop_finished", "Finished messages.")


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"), concurrency=1)
    def record(message_id: str) -> None:
        pid = os.fork()
        finished.inc()
        if pid == 0:
            finished.inc(1000)
            os._exit(0)
        os.waitpid(pid, 0)
"""

Serve = Callable[..., Service]


@pytest.fixture
def serve(recorded: Recorded) -> Iterator[Serve]:
    """`serve(source)` starts a service and waits until it is ready."""
    running = []

    def begin(source: str, *flags: str) -> Service:
        context = recorded.service("--workers=2", "--http=127.0.0.1:0", *flags, source=source)
        running.append(context)
        service = context.__enter__()
        service.wait_ready()
        return service

    yield begin
    for context in running:
        context.__exit__(None, None, None)


def files(service: Service) -> list[str]:
    (directory,) = (service.runtime_directory / "mxworker").glob("*.metrics")
    return sorted(path.name for path in directory.iterdir())


def counted(web: Web, name: str) -> float:
    return web.samples().get(name, 0.0)


def count_finished(recorded: Recorded) -> int:
    return sum(record.event is ledger.FINISH for record in recorded.records)


def test_counters_are_exact_over_kills_and_reloads(
    serve: Serve, recorded: Recorded, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    service = serve(ASYNC)
    web, name, seen, kills = service.web, 'shop_finished_total{kind="all"}', [0.0], scale(4, 20)
    assert web.samples()['shop_generation{pid="1"}'] == 1
    for number in range(kills):
        due = recorded.handled + scale(60, 1500)
        recorded.publish(scale(100, 2500))
        wait_until(lambda due=due: recorded.handled >= due, 180, "it to be in the middle")  # type: ignore[misc]
        service.wait_workers(2)
        service.kill_worker(rng)
        seen.append(counted(web, name))
        if number % 2:
            service.signal(SIGHUP)
            service.wait_for_event("reload_finished", generation=number // 2 + 2)
            seen.append(counted(web, name))
    wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
    wait_until(lambda: counted(web, name) >= count_finished(recorded) - kills, 30, "the last counts")
    before = count_finished(recorded)
    samples = web.samples()
    after = count_finished(recorded)  # a message may be handled once more
    seen.append(samples[name])
    assert seen == sorted(seen)
    assert before - kills <= seen[-1] <= after
    assert before - kills <= samples["shop_size_count"] <= after
    assert samples['shop_size_bucket{le="+Inf"}'] == samples["shop_size_count"]
    assert not any(value >= 1000 for key, value in samples.items() if key.startswith("mxworker_messages_total"))
    assert len(files(service)) <= 3 * 3  # of two workers and the spare slot: counters, gauges, histograms


def test_processes_of_cpu_handlers_count_exactly_though_they_die(serve: Serve, recorded: Recorded) -> None:
    service = serve(CPU)
    web, name = service.web, "shop_started_total"
    recorded.publish(12)
    wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
    started = sum(record.event is ledger.START for record in recorded.records)
    assert started > 12
    assert counted(web, name) == started
    assert len(files(service)) <= 2 * (1 + 3)


def test_what_forked_processes_count_is_left_out_and_their_files_are_removed(serve: Serve, recorded: Recorded) -> None:
    service = serve(FORKING)
    web = service.web
    recorded.publish(20)
    wait_until(lambda: counted(web, "shop_finished_total") == 20, 30, "all messages")
    wait_until(lambda: set(files(service)) <= {"counter_1.db", "counter_2.db"}, 30, "the files of workers alone")
    assert counted(web, "shop_finished_total") == 20


def test_gauges_are_those_of_living_workers(serve: Serve, rng: random.Random) -> None:
    service = serve(ASYNC)
    web = service.web
    assert {key for key in web.samples() if key.startswith("shop_generation")} == {
        'shop_generation{pid="1"}',
        'shop_generation{pid="2"}',
    }
    assert service.mxworker("ctl", "scale", "1").returncode == 0
    wait_until(lambda: len([key for key in web.samples() if key.startswith("shop_generation")]) == 1, 30, "one gauge")


def test_damaged_file_costs_its_own_counts_alone(serve: Serve, recorded: Recorded) -> None:
    service = serve(ASYNC)
    (directory,) = (service.runtime_directory / "mxworker").glob("*.metrics")
    (directory / "counter_9.db").write_bytes(b"\xff" * 1000)
    (directory / "histogram_9.db").write_bytes(b"")
    recorded.publish(20)
    wait_until(lambda: counted(service.web, 'shop_finished_total{kind="all"}') == 20, 30, "all messages")
    assert service.events("user_metrics_unreadable")
    assert Path(directory).exists()
