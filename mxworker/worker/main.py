"""The whole life of a worker process, from the fork to its exit code.

The master calls `run` in the child, with signals reset and one thread. `run` loads the application, runs the service on
an event loop, and answers signals. The exit codes are in `errors.ExitCode`. When the worker cannot start, it writes the
reason to the board's note, and the master reports it once for all workers.

Signals: TERM drains; RTMAX drains without waiting for handlers; USR1 logs what runs now, also in a blocked loop; URG
makes the worker look at the board.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from setproctitle import setproctitle

from mxworker.api.compilation import Handler
from mxworker.api.handlers import Handlers
from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.board.slot import BoardSlot
from mxworker.config.process import Consumption
from mxworker.config.units import format_duration
from mxworker.errors import AppLoadError, BrokerError, ConnectionLost, CredentialsRefused, ExitCode, MxWorkerError
from mxworker.system.at_exit import finish
from mxworker.system.forks import Forks, end_fork
from mxworker.system.log import add_facts, keep_telling
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign
from mxworker.worker.assembly import assemble
from mxworker.worker.blocking import blocker_of, handlers_in_threads
from mxworker.worker.directives import apply_log_level
from mxworker.worker.dump import dump, dump_stack, tell_blocked
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.handling.message_facts import message_facts
from mxworker.worker.loading import prepare
from mxworker.worker.loops import new_loop
from mxworker.worker.profiling.profiler import Profiler
from mxworker.worker.user_metrics import keep_user_metrics
from mxworker.worker.watchdog import Watchdog

log = logging.getLogger(__name__)

# https://www.rabbitmq.com/docs/access-control#loopback-users
_GUEST = "\n  RabbitMQ takes the user 'guest' from its own machine only: make another user with rabbitmqctl add_user."
_WIND_DOWN_S = 0.5
_EXIT_GRACE_S = 0.3  # for the application's exit functions, when the drain has left them no time
_UNDRAINED_EXIT_GRACE_S = 5.0  # the same after a start that failed
_LONG_AFTER_S = 60.0  # a worker that the master asked to drain is killed by the master long before this


@dataclass(slots=True)
class _End:
    """How the process may end: by which instant of the monotonic clock, and whether its threads stop."""

    deadline: float | None = None
    """None until a drain has begun."""
    has_stuck_threads: bool = False


def run(settings: Consumption, board: Board, number: int) -> int:
    """Run as worker `number` of `board`. Return the process's exit code; the process has only to exit then."""
    pid = os.getpid()
    end = _End()
    code: int = ExitCode.RUNTIME
    try:
        board = board.of_worker(number)
        code = _live(settings, board, number, end)
    finally:
        if os.getpid() != pid:
            end_fork(sys.exception())
        grace_s = _UNDRAINED_EXIT_GRACE_S if end.deadline is None else _EXIT_GRACE_S
        deadline = max(end.deadline or 0.0, time.monotonic() + grace_s)
        board.slot(number).beat(int((deadline + _LONG_AFTER_S) * 1e9))  # the loop, which kept the heartbeat, has ended
        finish(code, deadline, waits_for_executors=not end.has_stuck_threads)
    return code


def _live(settings: Consumption, board: Board, number: int, end: _End) -> int:
    slot = board.slot(number)
    forks = Forks(f"worker {number}")
    signal.signal(signal.SIGUSR1, lambda _, frame: dump_stack(number, frame))  # an import can hang, too
    forks.claim_signals([signal.SIGUSR1])
    keep_telling()
    add_facts(message_facts)
    apply_log_level(board.directives)
    slot.words[Word.PID] = os.getpid()
    _show(number, WorkerState.BOOTING)
    slot.write_state(WorkerState.BOOTING)
    if settings.metrics_directory is not None:
        keep_user_metrics(settings.metrics_directory, str(number))
    try:
        application, settings, handlers = prepare(settings)
    except MxWorkerError as error:
        slot.write_note(f"Error: {error}")
        slot.write_state(WorkerState.STOPPED)
        return error.exit_code
    slot.write_note(_described(handlers))
    if number == 1 and not slot.ever_ready:  # one worker warns for all of them, and for their replacements
        _warn_of_long_holds(handlers)
    gc.collect()
    gc.freeze()  # objects that the import made live as long as the process: no collection needs to visit them
    return forks.run(new_loop, _serve(settings, handlers, application, board, slot, forks, end))


def _described(handlers: Sequence[Handler]) -> str:
    """Return the text of what a worker consumes, one line for each handler."""
    width = max((len(handler.queue.name) for handler in handlers), default=0)
    name_width = max((len(handler.name) for handler in handlers), default=0) + len("()")
    return "\n".join(
        f"consuming   {handler.queue.name:<{width}}  {f'{handler.name}()':<{name_width}}  "
        f"concurrency {handler.concurrency}, "
        f"prefetch {handler.prefetch}, timeout {format_duration(handler.timeout_s)}"
        for handler in handlers
    )


def _warn_of_long_holds(handlers: Sequence[Handler]) -> None:
    """Warn of each handler whose waiting deliveries may exceed the consumer timeout: the broker closes the channel."""
    for handler in handlers:
        limit_s = handler.queue.consumer_timeout_s
        if handler.longest_hold_s >= limit_s:
            log.warning(
                "handler %s may hold a delivery of queue %s for %g s: prefetch %d, concurrency %d, timeout %g s; after "
                "%g s (consumer_timeout) RabbitMQ closes the channel and redelivers all that is unsettled. "
                "Lower the prefetch or the timeout, or raise the concurrency",
                handler.name,
                handler.queue.name,
                handler.longest_hold_s,
                handler.prefetch,
                handler.concurrency,
                handler.timeout_s,
                limit_s,
                extra=log_event("consumer_timeout_near", handler=handler.name, queue=handler.queue.name),
            )


async def _serve(
    settings: Consumption,
    handlers: tuple[Handler, ...],
    application: Handlers,
    board: Board,
    slot: BoardSlot,
    forks: Forks,
    end: _End,
) -> ExitCode:
    service = assemble(
        settings,
        handlers,
        slot,
        must_start=lambda: not board.ever_ready or slot.is_on_trial,
        show=lambda state: _show(slot.number, state),
        serializers=application.serializers,
        declared=application.declared_queues,
        directives=board.directives,
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, service.request_stop)
    loop.add_signal_handler(signal.SIGRTMAX, service.request_cut)
    loop.add_signal_handler(signal.SIGURG, service.look_at_board)
    signal.signal(signal.SIGUSR1, lambda _, frame: _tell_what_runs(settings, slot, service.runners, frame))
    forks.claim_signals([signal.SIGTERM, signal.SIGRTMAX, signal.SIGURG, signal.SIGUSR1])
    profiler = Profiler(slot, loop, service.runners, service.cpu_processes)
    watchdog = Watchdog(
        slot.number,
        loop,
        lambda frame: blocker_of(frame, loop, service.runners),
        profiler.look,
        slot.rows.show_lag,
        lambda: handlers_in_threads(service.runners),
    )
    watchdog.start()
    try:
        code = await service.run_or_give_up()
    finally:
        watchdog.stop()
        if not service.has_running_handlers:  # a handler that still runs gets no more time
            await _wind_down()
        end.deadline, end.has_stuck_threads = service.drain_deadline, service.has_running_handlers
    if service.failure is not None:
        slot.write_note(failure_at_start(settings, service.failure, service.was_connected))
    return code


def _tell_what_runs(
    settings: Consumption, slot: BoardSlot, runners: Sequence[HandlerRunner], frame: FrameType | None
) -> None:
    """Log what runs now. When the heartbeat is late, first log what blocks the event loop."""
    if time.monotonic_ns() > slot.deadline_ns:
        tell_blocked(slot.number, runners, frame, settings.heartbeat_timeout_s)
    dump(slot.number, runners, frame)


async def _wind_down() -> None:
    """Cancel the tasks that the application left running, and give them half a second to end."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_WIND_DOWN_S)


def failure_at_start(settings: Consumption, failure: BrokerError | AppLoadError, was_connected: bool) -> str:
    """Return the text for a start that failed. `was_connected` is whether there was ever a connection."""
    brokers = foreign(settings.brokers)
    waited = f"(tried for {format_duration(settings.connect_wait_s)})"
    match failure:
        case CredentialsRefused():
            text = f"Error: {failure}\n  Check user, password and virtual host in {brokers}."
            return text + (_GUEST if any(url.is_guest_from_afar for url in settings.brokers.urls) else "")
        case ConnectionLost() if was_connected:
            return f"Error: no connection to {brokers} lasts: {failure} {waited}."
        case ConnectionLost():
            return (
                f"Error: no broker at {brokers}: {failure} {waited}.\n"
                "  Check that RabbitMQ runs there and the address is right, or wait longer with --connect-wait."
            )
        case _:
            return f"Error: {failure}" if failure.permanent else f"Error: {str(failure).rstrip('.')}."


def _show(number: int, state: WorkerState) -> None:
    setproctitle(f"mxworker: worker {number} [{state.name.lower()}]")
