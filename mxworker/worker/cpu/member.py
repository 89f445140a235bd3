"""The whole life of a process that executes `cpu=True` handlers: load, enter the lifespans, answer requests, leave.

The process runs the same pipeline as its worker, so decoding, middleware, `reject_on` and `on_error` mean the same
here. The handler is called on the event loop of this process, in its main thread: the loop has nothing else to do, and
the worker kills a process that is stuck.

Requests and answers have a socket of their own, and so have profiles. stdin is empty, stdout and stderr are the
worker's. Signals to the whole process group do nothing here: the worker ends this process by the end of the stream, or
by SIGKILL. `sys.argv` has no arguments.

This module knows nothing about AMQP, channels and deadlines.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from setproctitle import setproctitle

from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.context import HandlerScope, WorkerResources
from mxworker.api.delivery import Delivery
from mxworker.api.message import Encoder
from mxworker.api.settlement import Settlement
from mxworker.errors import ExitCode, MxWorkerError
from mxworker.payloads.compression import compression_of
from mxworker.system.at_exit import finish
from mxworker.system.child import bind_to_parent, do_nothing, flush
from mxworker.system.descriptors import claim
from mxworker.system.forks import Forks, end_fork
from mxworker.system.log import add_facts, keep_telling, lines_dropped, set_up, tell_lost_lines
from mxworker.system.log_events import log_event
from mxworker.worker.app_errors import faults_told
from mxworker.worker.cpu.pipe import Pipe
from mxworker.worker.cpu.protocol import READY, Frame, MemberSettings, failed, requested, settled
from mxworker.worker.cpu.publisher import CpuPublisher, resources
from mxworker.worker.handling.decode_budget import DecodeBudget
from mxworker.worker.handling.execution import Execute, pipeline
from mxworker.worker.handling.message_facts import message_facts
from mxworker.worker.handling.report import Report
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.loading import load, select
from mxworker.worker.loops import new_loop
from mxworker.worker.profiling.remote import ProfiledProcess
from mxworker.worker.user_metrics import keep_user_metrics

log = logging.getLogger(__name__)

DEAF_TO = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)
"""The signals that mean something to the master: a terminal or service manager sends them to all processes at once."""

_ENTER_S = 50.0  # less than the pool waits for a start, so that this process can report a lifespan that hangs
_TELL_EVERY_S = 1.0  # as often as a worker does
_LONG_S = 24 * 3600.0  # no limit for leaving the lifespans here: the worker kills this process when its time is up


def main() -> None:
    """Run as a member. The command line has the descriptors of two sockets, and the settings. Never returns."""
    *numbers, text = sys.argv[1:]
    settings = MemberSettings.from_json(text)
    bind_to_parent(settings.worker_pid)
    for signum in DEAF_TO:
        signal.signal(signum, do_nothing)
    end, profiled_end = (_taken_over(int(number)) for number in numbers)
    profiled = ProfiledProcess(profiled_end, settings.worker)
    signal.signal(signal.SIGURG, profiled.on_signal)
    forks = Forks(f"worker {settings.worker} cpu")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEAF_TO)
    sys.argv[1:] = []
    setproctitle(f"mxworker: worker {settings.worker} cpu")
    set_up(settings.log_level, settings.log_style)
    add_facts(message_facts)
    keep_telling()
    pid = os.getpid()
    code: int = ExitCode.RUNTIME
    try:
        code = _live(settings, Pipe(end, settings.max_body_bytes), profiled, forks)
    except BaseException:
        log.exception(
            "a process for cpu handlers of worker %d failed",
            settings.worker,
            extra=log_event("cpu_process_failed", worker=settings.worker),
        )
    finally:
        if os.getpid() != pid:
            end_fork(sys.exception())
        try:
            finish(code, None)  # without a limit: the worker kills this process when its time is up
            flush()
        finally:
            os._exit(code)  # does not wait for threads that the application left running


def _taken_over(fd: int) -> socket.socket:
    end = socket.socket(fileno=fd)
    end.set_inheritable(False)  # not for the subprocesses of a handler
    claim(fd)
    return end


def _live(settings: MemberSettings, pipe: Pipe, profiled: ProfiledProcess, forks: Forks) -> ExitCode:
    if settings.metrics_directory is not None:
        keep_user_metrics(settings.metrics_directory, f"{settings.worker}-cpu{settings.number}")
    try:
        with faults_told(settings.app):
            path = sys.path.copy()
            application = load(settings.app, settings.app_dir, settings.may_be_insecure)
            sys.path[:] = path  # the path came from the worker, whose loading has changed it in the same way
            compression, most_bytes = compression_of(settings.publisher), settings.publisher.max_body_bytes
            publisher = CpuPublisher(pipe, Encoder(compression, application.serializers, most_bytes))
            chosen = select(
                application,
                settings.queues,
                settings.overrides,
                settings.exclude_queues,
                settings.queue_overrides,
            )
        handlers = [handler for handler in chosen if handler.kind is HandlerKind.PROCESS]
        gc.collect()
        gc.freeze()  # as in the worker: no collection needs to visit the objects that the import made
        forks.run(new_loop, _serve(handlers, pipe, publisher, profiled, settings))
    except MxWorkerError as error:
        pipe.send_now(failed(error))
        return error.exit_code
    return ExitCode.OK


async def _serve(
    handlers: Sequence[Handler],
    pipe: Pipe,
    publisher: CpuPublisher,
    profiled: ProfiledProcess,
    settings: MemberSettings,
) -> None:
    """Answer requests until the stream ends. Raises AppLoadError when a lifespan cannot be entered."""
    profiled.loop = asyncio.get_running_loop()
    lifespans = Lifespans(handlers, lambda: None if profiled.label else pipe.end_receiving())
    await lifespans.enter(min(settings.boot_timeout_s, _ENTER_S))
    budget = DecodeBudget(ByteBudget(settings.prefetch_budget_bytes))
    places = {
        handler.queue.name: _Place(
            replace(handler, function=publisher.without_await(handler.function)),
            lifespans.state_of(handler),
            resources(publisher),
            budget,
            settings.worker,
        )
        for handler in handlers
    }
    pipe.send_now(Frame(READY, {}))
    telling = asyncio.create_task(_tell_lost_lines())
    dropped_before = 0
    while (frame := await pipe.receive()) is not None:
        queue, delivery = requested(frame, _ELSEWHERE)
        publisher.open()
        place = places[queue]
        profiled.label = place.label
        settlement = await place.settlement_of(delivery)
        profiled.label = ""
        publisher.close()
        dropped = lines_dropped()
        pipe.send_now(settled(settlement, dropped - dropped_before))
        dropped_before = dropped
        if lifespans.are_cancelled:
            pipe.end_receiving()  # the worker sends the next request to another process
    telling.cancel()
    await lifespans.leave(asyncio.get_running_loop().time() + _LONG_S)


async def _tell_lost_lines() -> None:
    """Report dropped lines of the log when their reader is back, although this process may log nothing more."""
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        tell_lost_lines()


class _Place:
    """Executes the deliveries of one handler."""

    def __init__(
        self, handler: Handler, state: Any, resources: WorkerResources, budget: DecodeBudget, worker: int
    ) -> None:
        """`state` is the value that the handler's lifespan yielded; `worker` is the number of the worker."""
        self.label = f"handler {handler.name}"
        self._report = Report(handler)
        scope = HandlerScope(handler.queue.name, handler.name, handler.max_attempts, state, resources, worker)
        self._execute: Execute = pipeline(handler, self._report, scope, budget=budget)
        self._context = copy_context()

    async def settlement_of(self, delivery: Delivery) -> Settlement:
        """Execute a delivery in a context of its own: context variables that it sets do not reach the next delivery."""
        try:
            return await asyncio.create_task(self._execute(delivery), context=self._context.copy())
        except asyncio.CancelledError:  # raised by the handler, since this process cancels nothing
            return self._report.cancelled(timed_out=False)
        except BaseException as error:
            return self._report.failed(error)


class _Elsewhere:
    """The source of deliveries here. It does nothing, since the worker settles them."""

    is_lost = False
    is_consumed = True

    def ack(self, delivery: Delivery) -> bool:
        """Do nothing."""
        return False

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        """Do nothing."""
        return False

    def give_back(self, delivery: Delivery) -> bool:
        """Do nothing."""
        return False

    def holds(self, delivery: Delivery) -> bool:
        """Return False."""
        return False

    def give_up(self, why: str) -> None:
        """Do nothing."""


_ELSEWHERE = _Elsewhere()
