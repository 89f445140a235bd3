"""Puts a worker together: makes its parts, each with those that it works with, from the ground up.

The one place that knows which part has which. Where two parts know each other, one of them gets a function that calls
the other, which is made later. Runners and consumers are made when the lifespans are entered, into lists that other
parts have already.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.consumer import UNPROVEN, Consumer
from mxworker.amqp.consuming.declared import DeclaredQueues
from mxworker.amqp.consuming.faulty_queues import FaultyQueues
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.context import WorkerResources
from mxworker.api.message import Encoder
from mxworker.api.queues import Queue
from mxworker.board.directives import Directives, no_directives
from mxworker.board.lifecycle import WorkerState
from mxworker.board.slot import BoardSlot
from mxworker.config import Consumption
from mxworker.errors import BrokerError
from mxworker.payloads.serializers import NO_SERIALIZERS, Serializer
from mxworker.system.log import as_set_up
from mxworker.worker.controls import Controls
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.directives import DirectiveFollower
from mxworker.worker.handling.decode_budget import DecodeBudget
from mxworker.worker.handling.handler_runner import HandlerRunner, ProcessScope
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.payload_size import expected_growth
from mxworker.worker.handling.threads import Threads
from mxworker.worker.heartbeat import Heartbeat
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.lost_places import LostPlaces
from mxworker.worker.readiness import Readiness
from mxworker.worker.recycling import Recycling
from mxworker.worker.service import Parts, Service
from mxworker.worker.shutdown import Shutdown
from mxworker.worker.start import Start, level_of

# Of many queues, so many are declared at a time: the broker takes its time (21 s were seen for 300 of them), and a
# queue's time for an answer must not be spent in waiting behind all others.
OPEN_AT_ONCE = 32


def assemble(
    settings: Consumption,
    handlers: Sequence[Handler],
    slot: BoardSlot,
    must_start: Callable[[], bool],
    show: Callable[[WorkerState], None],
    serializers: Mapping[str, Serializer] = NO_SERIALIZERS,
    declared: Sequence[Queue] = (),
    orders: Directives | None = None,
) -> Service:
    """Return the service of one worker. Call inside a running loop.

    `must_start` says whether a start may fail for good; `show` is told every state, for the process title.
    `serializers` make the bodies of what handlers publish, by content type; `declared` are the queues that are declared
    and not consumed; `orders` are those of the master.
    """
    for index, handler in enumerate(handlers):
        slot.name_handler(index, handler.name, handler.queue.name)
    loop = asyncio.get_running_loop()
    rng = random.Random()  # noqa: S311  not for secrets; seeded by the system, here after the fork
    runners: list[HandlerRunner] = []
    consumers: list[Consumer] = []

    # the connections
    tell_at = partial(level_of, settings, slot.number, must_start)
    pool = Pool(
        settings.pool,
        settings.brokers,
        f"mxworker {settings.app} worker {slot.number}",
        lambda: readiness.look(),
        rng,
        tell_at,
        settings.max_body_bytes,
    )
    link = pool.consume_link
    encoder = Encoder(None, serializers, settings.publisher.max_body_bytes)
    publisher = Publisher(pool.publish_link, settings.publisher, encoder, rng)

    # how far the worker is, and when it leaves
    shutdown = Shutdown(slot.number)
    readiness = Readiness(slot, handlers, link, consumers, show)
    start = Start(settings, slot.number, pool, consumers, readiness, shutdown, must_start)
    recycling = Recycling(settings.limits, slot, rng)
    lost_places = LostPlaces(slot.number, runners, recycling, shutdown, settings.burst)

    # what handlers run in
    lifespans = Lifespans(handlers)
    limiter = Limiter(settings.process_concurrency)
    isolation = Isolation(slot, limiter, loop)
    threads = Threads(_places_for(HandlerKind.THREAD, handlers, settings.process_concurrency))
    cpu = CpuPool(
        MemberSettings.of(settings, slot.number, os.getpid(), as_set_up()),
        _places_for(HandlerKind.PROCESS, handlers, settings.process_concurrency),
        rng,
        publisher,
    )
    controls = Controls(slot, consumers, runners)
    budget = ByteBudget(settings.prefetch_budget_bytes)
    process = ProcessScope(
        slot=slot,
        loop=loop,
        limiter=limiter,
        isolation=isolation,
        threads=threads,
        rng=rng,
        on_broken=shutdown.break_down,
        on_stuck=lost_places.look,
        resources=WorkerResources(pool, publisher, controls),
        execute_in_process=cpu.executing,
        quarantine_after=settings.quarantine_after,
        decode_budget=DecodeBudget(budget),
    )
    consumer_of = partial(
        _consumer_of,
        link=link,
        on_change=readiness.look,
        rng=rng,
        budget=budget,
        opening=asyncio.Semaphore(OPEN_AT_ONCE),
        tell_at=tell_at,
        declared=DeclaredQueues(declared),
        faulty_queues=FaultyQueues(),
    )

    def make_handlers() -> None:
        for index, handler in enumerate(handlers):
            runner = _runner_of(index, handler, process, link, lifespans)
            consumer = consumer_of(handler, runner)
            if readiness.is_checking:
                consumer.pause(UNPROVEN)
            runner.guard(consumer.pause, consumer.resume, consumer.limit_prefetch)
            runners.append(runner)
            consumers.append(consumer)

    # what follows the master
    directives = DirectiveFollower(orders or no_directives(), consumers, runners)
    heartbeat = Heartbeat(settings, slot, recycling, lambda: service.look_at_board())
    service = Service(
        settings,
        slot,
        Parts(
            pool=pool,
            publisher=publisher,
            lifespans=lifespans,
            make_handlers=make_handlers,
            runners=runners,
            consumers=consumers,
            reconciler=Reconciler(link, consumers),
            isolation=isolation,
            threads=threads,
            cpu=cpu,
            controls=controls,
            directives=directives,
            heartbeat=heartbeat,
            readiness=readiness,
            start=start,
            lost_places=lost_places,
            shutdown=shutdown,
        ),
    )
    return service


def _places_for(kind: HandlerKind, handlers: Sequence[Handler], most: int) -> int:
    """Return how many threads, or processes, handlers of one kind may use: a place for each that may run."""
    wanted = sum(handler.concurrency for handler in handlers if handler.kind is kind)
    return max(1, min(wanted, most))


def _runner_of(index: int, handler: Handler, process: ProcessScope, link: Link, lifespans: Lifespans) -> HandlerRunner:
    declare_quarantine = partial(topology.declare_quarantine, link, handler.queue)
    return HandlerRunner(
        index,
        handler,
        process,
        partial(topology.repair, link, handler.queue, handler.retry_steps_ms),
        lifespans.state_of(handler),
        declare_quarantine if handler.queue.declare == "ensure" else None,
    )


def _consumer_of(
    handler: Handler,
    runner: HandlerRunner,
    *,
    link: Link,
    on_change: Callable[[], None],
    rng: random.Random,
    budget: ByteBudget,
    opening: asyncio.Semaphore,
    tell_at: Callable[[BrokerError], int],
    declared: DeclaredQueues,
    faulty_queues: FaultyQueues,
) -> Consumer:
    """Return what brings the deliveries of a handler to its runner. What has a keyword is shared by all consumers."""
    return Consumer(
        link,
        handler.queue,
        handler.prefetch,
        runner.admit,
        on_change,
        rng,
        on_paused=runner.return_waiting,
        retry_steps_ms=handler.retry_steps_ms,
        budget=budget,
        growth=expected_growth(handler.decode),
        opening=opening,
        level_of=tell_at,
        declared=declared,
        faulty_queues=faulty_queues,
    )
