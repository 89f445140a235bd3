"""The composition of a worker: every part is made here, and gets the parts that it uses.

Where two parts call each other, the first one gets a function that calls the second, which is made later. Runners and
consumers are made when the lifespans are entered, and are appended to lists that other parts already have.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.connecting.transport import Wire
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.consumer import UNPROVEN, Consumer
from mxworker.amqp.consuming.declared import DeclaredQueues
from mxworker.amqp.consuming.faulty_queues import FaultyQueues
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.publishing.publisher import Publisher, trace
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.context import HandlerScope, WorkerResources
from mxworker.api.message import Encoder
from mxworker.api.queues import Queue
from mxworker.board.directives import Directives, no_directives
from mxworker.board.layout import Given
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metric_reading import former
from mxworker.board.slot import BoardSlot
from mxworker.config.process import Consumption
from mxworker.errors import BrokerError
from mxworker.payloads.compression import compression_of
from mxworker.payloads.serializers import NO_SERIALIZERS, Serializer
from mxworker.system.log import as_set_up
from mxworker.tracing.tracer import Tracer, find_tracer, set_up_from
from mxworker.worker.conditions import ConditionReport
from mxworker.worker.controls import Controls
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.directives import DirectiveFollower
from mxworker.worker.handling.batch_execution import batch_pipeline
from mxworker.worker.handling.batch_work import BatchWork
from mxworker.worker.handling.batching import Gatherer
from mxworker.worker.handling.breaker_driver import HandlerBreaker
from mxworker.worker.handling.clock import Clock
from mxworker.worker.handling.copy_publisher import CopyPublisher
from mxworker.worker.handling.decode_budget import DecodeBudget
from mxworker.worker.handling.delivery_log import DeliveryLog
from mxworker.worker.handling.dispatcher import Dispatcher
from mxworker.worker.handling.execution import Execute, pipeline
from mxworker.worker.handling.handler_metrics import HandlerMetrics
from mxworker.worker.handling.handler_runner import HandlerRunner, ProcessScope
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.payload_size import expected_growth
from mxworker.worker.handling.record import Record
from mxworker.worker.handling.report import Report
from mxworker.worker.handling.running import Running
from mxworker.worker.handling.settling import Settling
from mxworker.worker.handling.threads import Threads
from mxworker.worker.handling.traced import traced, traced_batch
from mxworker.worker.handling.work import SingleWork, Watch
from mxworker.worker.heartbeat import Heartbeat
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.lost_places import LostPlaces
from mxworker.worker.performance import PerformanceLog
from mxworker.worker.publish_metrics import PublishMetrics
from mxworker.worker.queue_watch import QueueWatch
from mxworker.worker.readiness import Readiness
from mxworker.worker.recycling import Recycling
from mxworker.worker.service import Parts, Service
from mxworker.worker.shutdown import Shutdown
from mxworker.worker.start import Start, level_of
from mxworker.worker.worker_metrics import WorkerMetrics

# The number of queues that are declared at a time. The broker is slow (21 s were measured for 300 queues), and the time
# that a queue has for its answer must not pass while its declaration waits behind all others.
OPEN_AT_ONCE = 32


def assemble(
    settings: Consumption,
    handlers: Sequence[Handler],
    slot: BoardSlot,
    must_start: Callable[[], bool],
    show: Callable[[WorkerState], None],
    serializers: Mapping[str, Serializer] = NO_SERIALIZERS,
    declared: Sequence[Queue] = (),
    directives: Directives | None = None,
    wire: Wire | None = None,
    clock: Clock | None = None,
    watch_for: Callable[[Handler], Watch] | None = None,
) -> Service:
    """Return the service of one worker. Call inside a running loop.

    `must_start` returns whether a start may fail; `show` gets every state, for the process title. `serializers`, by
    content type, make the bodies that handlers publish; `declared` are the queues that are declared and not consumed;
    `directives` are those of the master. With `wire` there are no sockets; for `clock` and `watch_for` see
    `ProcessScope`.
    """
    for index, handler in enumerate(handlers):
        slot.name_handler(index, handler.name, handler.queue.name)
    names = ((handler.queue.name, handler.name) for handler in handlers)
    slot.rows.claim(names, slot.given[Given.GENERATION], lambda: former(slot.used))
    loop = asyncio.get_running_loop()
    rng = random.Random()  # noqa: S311  not for secrets; seeded by the system, here after the fork
    runners: list[HandlerRunner] = []
    consumers: list[Consumer] = []

    # the connections
    tell_at = partial(level_of, settings, slot.number, must_start)
    name = f"mxworker {settings.app} worker {slot.number}"
    pool = Pool(
        settings.pool, settings.brokers, name, lambda: look_at_links(), rng, tell_at, settings.max_body_bytes, wire
    )
    link = pool.consume_link
    encoder = Encoder(compression_of(settings.publisher), serializers, settings.publisher.max_body_bytes)
    publisher = Publisher(pool.publish_link, settings.publisher, encoder, rng, PublishMetrics(slot.rows))
    metrics = WorkerMetrics(slot.rows, pool, publisher, runners, consumers)
    pool.on_borrowed = metrics.note_borrowed
    pool.on_loss(metrics.note_loss)

    # the state of the worker, and the requests to leave
    shutdown = Shutdown(slot.number)
    conditions = ConditionReport(slot, pool, consumers)
    readiness = Readiness(slot, handlers, link, consumers, show)

    def look_at_links() -> None:
        conditions.look()  # first, since the state makes the master read the slot
        readiness.look()

    start = Start(settings, slot.number, pool, consumers, readiness, shutdown, must_start)
    recycling = Recycling(settings.limits, slot, rng)
    lost_places = LostPlaces(slot.number, runners, recycling, shutdown, settings.burst)

    # the lifespans, limits, threads and processes of the handlers
    lifespans = Lifespans(handlers, shutdown.lose_lifespan)
    limiter = Limiter(settings.process_concurrency)
    isolation = Isolation(slot, limiter, loop, slot.ring)
    threads = Threads(_places_for(HandlerKind.THREAD, handlers, settings.process_concurrency))
    processes = _places_for(HandlerKind.PROCESS, handlers, settings.process_concurrency)
    cpu = CpuPool(MemberSettings.of(settings, slot.number, os.getpid(), as_set_up()), processes, rng, publisher)
    controls = Controls(slot, consumers, runners)
    budget = ByteBudget(settings.prefetch_budget_bytes)
    process = ProcessScope(
        slot=slot,
        loop=loop,
        clock=clock or loop,
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
        watch_for=watch_for,
    )

    # the runners, each with the consumer that brings its deliveries
    def make_handlers() -> None:
        tracer = _tracer_of_process()
        if tracer is not None:
            trace(publisher, tracer)
        shared = _Shared(link, look_at_links, rng, budget, tell_at, DeclaredQueues(declared))
        for index, handler in enumerate(handlers):
            runner = runner_of(index, handler, process, link, lifespans.state_of(handler), tracer)
            consumer = _consumer_of(handler, runner, shared)
            if readiness.is_checking:
                consumer.pause(UNPROVEN)
            runner.breaker.steer(consumer.pause, consumer.resume, consumer.limit_prefetch)
            runners.append(runner)
            consumers.append(consumer)

    # the exchange with the master
    follower = DirectiveFollower(directives or no_directives(), consumers, runners)
    heartbeat = Heartbeat(settings, slot, recycling, lambda: service.look_at_board(), metrics.write)
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
            queue_watch=QueueWatch(slot, link, handlers, consumers),
            isolation=isolation,
            threads=threads,
            cpu=cpu,
            controls=controls,
            conditions=conditions,
            directives=follower,
            heartbeat=heartbeat,
            metrics=metrics,
            readiness=readiness,
            start=start,
            lost_places=lost_places,
            shutdown=shutdown,
            performance=PerformanceLog(slot.number, lambda: publisher.stats, lambda: controls.stats, runners),
        ),
    )
    return service


def _tracer_of_process() -> Tracer | None:
    """Return the tracer that the application has set up, or that the environment asks for, or None."""
    if find_tracer() is None:
        set_up_from(os.environ)
    return find_tracer()


def _places_for(kind: HandlerKind, handlers: Sequence[Handler], most: int) -> int:
    """Return how many threads or processes the handlers of one kind need: one for each delivery that may run."""
    wanted = sum(handler.concurrency for handler in handlers if handler.kind is kind)
    return max(1, min(wanted, most))


def runner_of(
    index: int,
    handler: Handler,
    process: ProcessScope,
    link: Link | None = None,
    state: Any = None,
    tracer: Tracer | None = None,
) -> HandlerRunner:
    """Return the runner of one handler.

    `index` is the handler's place in the board's directory, `state` the value that its lifespan yielded. Without
    `link`, queues that are found missing are not declared again. With `tracer` each execution has a span.
    """
    queue = handler.queue
    scope = HandlerScope(queue.name, handler.name, handler.max_attempts, state, process.resources, process.slot.number)
    record = Record(handler, index, process.slot, process.loop, process.quarantine_after)
    report = Report(handler)
    copies = CopyPublisher(
        queue,
        process.resources.publisher if process.resources is not None else None,
        partial(topology.repair, link, queue, handler.retry_steps_ms) if link is not None else None,
        partial(topology.declare_quarantine, link, queue) if link is not None and queue.declare != "off" else None,
    )
    delivery_log = DeliveryLog(handler)
    row = process.slot.rows.consumer(queue.name, handler.name)
    metrics = HandlerMetrics(handler, row) if process.has_metrics else None
    settling = Settling(
        handler,
        row,
        copies,
        process.rng,
        lambda delivery: runner.run_next(delivery),
        metrics.note_success if metrics is not None else lambda published_at: None,
        lambda: dispatcher.is_open,
        delivery_log,
    )
    clock = process.clock
    running: Running[Any] = Running(
        handler.timeout_s, process.loop, lambda unit, task: runner.report_stuck(unit, task), process.grace_s, clock
    )
    breaker = HandlerBreaker(handler, clock, lambda most: dispatcher.limit(most))
    watch = breaker.watching(process.watch_for(handler) if process.watch_for is not None else None)
    work: SingleWork | BatchWork
    if handler.batch is None:
        execute = _execute_of(handler, report, scope, running, process)
        if tracer is not None:
            execute = traced(execute, queue.name, tracer)
        work = SingleWork(record, execute, report, settling, running, watch, metrics)
    else:
        execute_batch = batch_pipeline(
            handler, report, scope, process.threads, process.decode_budget, lambda: running.is_cut_short
        )
        if tracer is not None:
            execute_batch = traced_batch(execute_batch, queue.name, tracer)
        work = BatchWork(
            record,
            execute_batch,
            report,
            settling,
            running,
            watch,
            lambda gathered: dispatcher.run_next(gathered),
            metrics,
        )
    dispatcher: Dispatcher[Any] = Dispatcher(
        handler.concurrency,
        running,
        work,
        process.limiter,
        process.isolation,
        process.loop,
        process.on_broken,
        queue.consumer_timeout_s / 3,  # the rest of the time is for running the delivery
        in_order=queue.single_active_consumer,
    )
    gatherer = Gatherer(handler.batch, clock, dispatcher.admit) if handler.batch is not None else None
    runner = HandlerRunner(
        handler,
        record,
        running,
        dispatcher,
        gatherer,
        work.give_back,
        breaker,
        process,
        metrics,
        delivery_log.tell_rest,
    )
    return runner


def _execute_of(
    handler: Handler, report: Report, scope: HandlerScope, running: Running[Any], process: ProcessScope
) -> Execute:
    """Return the function that takes a delivery to its settlement: here, or in a process of a `cpu=True` handler."""
    if handler.kind is not HandlerKind.PROCESS:
        return pipeline(
            handler,
            report,
            scope,
            process.threads,
            process.decode_budget,
            running.suspended,
            lambda: running.is_cut_short,
        )
    assert process.execute_in_process is not None, "a cpu=True handler needs a pool of processes"
    return process.execute_in_process(handler, report, running.suspended)


@dataclass(frozen=True, slots=True)
class _Shared:
    """The parts that the consumers of a process share."""

    link: Link
    on_change: Callable[[], None]
    rng: random.Random
    budget: ByteBudget
    tell_at: Callable[[BrokerError], int]
    declared: DeclaredQueues
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPEN_AT_ONCE))
    faulty_queues: FaultyQueues = field(default_factory=FaultyQueues)


def _consumer_of(handler: Handler, runner: HandlerRunner, shared: _Shared) -> Consumer:
    """Return the consumer that brings the deliveries of a handler to its runner."""
    return Consumer(
        shared.link,
        handler.queue,
        handler.prefetch,
        runner.admit,
        shared.on_change,
        shared.rng,
        on_paused=runner.return_waiting,
        retry_steps_ms=handler.retry_steps_ms,
        budget=shared.budget,
        growth=expected_growth(handler.decode),
        opening=shared.opening,
        level_of=shared.tell_at,
        declared=shared.declared,
        faulty_queues=shared.faulty_queues,
    )
